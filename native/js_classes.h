// What each border file adds to the addon's exports. The verbs themselves are in the files of the same names.
#pragma once

#include <napi.h>

class Descriptor;

void ExportDescriptor(Napi::Env env, Napi::Object exports);
void ExportDoorbell(Napi::Env env);
void ExportEventfd(Napi::Env env, Napi::Object exports);
void ExportFile(Napi::Object exports);
void ExportRegion(Napi::Env env, Napi::Object exports);
void ExportSocket(Napi::Env env, Napi::Object exports);
void ExportStream(Napi::Env env, Napi::Object exports);

/// mapDoorbell(offset), a verb of descriptors.
napi_value JsMapDoorbell(Descriptor& self, const Napi::CallbackInfo& info);
