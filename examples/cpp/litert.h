// The part of LiteRT's C API that the example uses, written down so that no headers are needed.
//
// libLiteRt.so of the Python wheel ai-edge-litert and of LiteRT's releases for C++ exports it.
// Tried with 2.3.0; the full headers are in LiteRT's litert/c/.
#pragma once

#include <cstddef>
#include <cstdint>

using LiteRtStatus = int;  // 0: success; litert_common.h names the others
using LiteRtAccelerator = struct LiteRtAcceleratorT*;
using LiteRtAcceleratorConst = const struct LiteRtAcceleratorT*;
using LiteRtCompiledModel = struct LiteRtCompiledModelT*;
using LiteRtDelegateWrapper = struct LiteRtDelegateWrapperT*;
using LiteRtEnvironment = struct LiteRtEnvironmentT*;
using LiteRtModel = struct LiteRtModelT*;
using LiteRtOpaqueOptions = struct LiteRtOpaqueOptionsT*;
using LiteRtOptions = struct LiteRtOptionsT*;
using LiteRtRuntimeContext = struct LiteRtRuntimeContext;
using LiteRtSignature = struct LiteRtSignatureT*;
using LiteRtTensor = struct LiteRtTensorT*;
using LiteRtTensorBuffer = struct LiteRtTensorBufferT*;
using LiteRtTensorBufferRequirements = struct LiteRtTensorBufferRequirementsT*;
using TfLiteDelegate = struct TfLiteDelegate;

constexpr int kLiteRtHwAcceleratorCpu = 1;
constexpr int kLiteRtLockModeRead = 0;
constexpr int kLiteRtLockModeWrite = 1;

struct LiteRtApiVersion {
  int major, minor, patch;
};

struct LiteRtLayout {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
};

struct LiteRtRankedTensorType {
  int element_type;
  LiteRtLayout layout;
};
static_assert(sizeof(LiteRtRankedTensorType) == 72, "LiteRT's layout of a tensor type");

struct LiteRtEnvOption {
  int tag;
  struct {
    int type;
    int64_t integer;
  } value;
};
static_assert(sizeof(LiteRtEnvOption) == 24, "LiteRT's layout of an option");
constexpr int kLiteRtEnvOptionTagAutoRegisterAccelerators = 24;  // a set of kLiteRtHwAccelerator...
constexpr int kLiteRtEnvOptionTagMinLoggerSeverity = 25;
constexpr int kLiteRtAnyTypeInt = 2;
constexpr int kLiteRtLogSeverityWarning = 2;

// How LiteRT's own accelerators are defined; the functions are those of `LiteRtSetAccelerator...`.
struct LiteRtAcceleratorDef {
  uint16_t header[4];
  LiteRtStatus (*get_name)(LiteRtAcceleratorConst, const char**);
  LiteRtStatus (*get_version)(LiteRtAcceleratorConst, LiteRtApiVersion*);
  LiteRtStatus (*get_hardware_support)(LiteRtAcceleratorConst, int*);
  LiteRtStatus (*is_responsible_for_jit)(LiteRtAcceleratorConst, bool*);
  LiteRtStatus (*create_delegate)(LiteRtRuntimeContext*, LiteRtEnvironment, LiteRtAcceleratorConst,
                                  LiteRtOptions, LiteRtDelegateWrapper*);
};

extern "C" {
LiteRtStatus LiteRtCreateEnvironment(int count, const LiteRtEnvOption* options, LiteRtEnvironment*);
void LiteRtDestroyEnvironment(LiteRtEnvironment);

LiteRtStatus LiteRtCreateModelFromFile(LiteRtEnvironment, const char* path, LiteRtModel*);
LiteRtStatus LiteRtGetModelMetadata(LiteRtModel, const char* key, const void** data, size_t* bytes);
LiteRtStatus LiteRtGetNumModelSignatures(LiteRtModel, size_t* count);
LiteRtStatus LiteRtGetModelSignature(LiteRtModel, size_t index, LiteRtSignature*);
void LiteRtDestroyModel(LiteRtModel);

LiteRtStatus LiteRtGetSignatureKey(LiteRtSignature, const char** key);
LiteRtStatus LiteRtGetNumSignatureInputs(LiteRtSignature, size_t* count);
LiteRtStatus LiteRtGetSignatureInputName(LiteRtSignature, size_t index, const char** name);
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtSignature, size_t index, LiteRtTensor*);
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature, size_t* count);
LiteRtStatus LiteRtGetSignatureOutputName(LiteRtSignature, size_t index, const char** name);
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature, size_t index, LiteRtTensor*);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor, LiteRtRankedTensorType*);

LiteRtStatus LiteRtCreateOptions(LiteRtOptions*);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions, int accelerators);
LiteRtStatus LiteRtCreateOpaqueOptions(const char* name, void* payload, void (*release)(void*),
                                       LiteRtOpaqueOptions*);
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtOptions, LiteRtOpaqueOptions);
void LiteRtDestroyOptions(LiteRtOptions);

LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions,
                                       LiteRtCompiledModel*);
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel, size_t signature,
                                                           size_t index,
                                                           LiteRtTensorBufferRequirements*);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel, size_t signature,
                                                            size_t index,
                                                            LiteRtTensorBufferRequirements*);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel, size_t signature, size_t input_count,
                                    LiteRtTensorBuffer* inputs, size_t output_count,
                                    LiteRtTensorBuffer* outputs);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel);

LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment,
                                                             const LiteRtRankedTensorType*,
                                                             LiteRtTensorBufferRequirements,
                                                             LiteRtTensorBuffer*);
LiteRtStatus LiteRtGetTensorBufferPackedSize(LiteRtTensorBuffer, size_t* bytes);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer, void** data, int mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer);

// A delegate of TFLite reaches LiteRT as an accelerator, which makes one for each compiled model.
LiteRtStatus LiteRtCreateAccelerator(LiteRtAccelerator*);
LiteRtStatus LiteRtSetAcceleratorGetName(LiteRtAccelerator,
                                         decltype(LiteRtAcceleratorDef::get_name));
LiteRtStatus LiteRtSetAcceleratorGetVersion(LiteRtAccelerator,
                                            decltype(LiteRtAcceleratorDef::get_version));
LiteRtStatus LiteRtSetAcceleratorGetHardwareSupport(
    LiteRtAccelerator, decltype(LiteRtAcceleratorDef::get_hardware_support));
LiteRtStatus LiteRtSetDelegateFunction(LiteRtAccelerator,
                                       decltype(LiteRtAcceleratorDef::create_delegate));
LiteRtStatus LiteRtRegisterAccelerator(LiteRtEnvironment, LiteRtAccelerator, void* data,
                                       void (*release)(void*));
LiteRtStatus LiteRtWrapDelegate(TfLiteDelegate*, void (*destroy)(TfLiteDelegate*),
                                LiteRtDelegateWrapper*);
extern const LiteRtAcceleratorDef* LiteRtStaticLinkedAcceleratorCpuDef;  // XNNPACK
}
