#include "ensemble.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <tuple>

#include "combination.h"

namespace {

void Check(LiteRtStatus status, const std::string& what) {
  if (status != 0)
    throw std::runtime_error(what + " failed (LiteRT's status " + std::to_string(status) + ")");
}

// -- The delegate, as an accelerator of LiteRT. Its functions get no data, hence the variables. --

using CreateDelegate = TfLiteDelegate* (*)(const char* const* keys, const char* const* values,
                                           size_t count, void (*report)(const char*));
CreateDelegate create_delegate = nullptr;
void (*destroy_delegate)(TfLiteDelegate*) = nullptr;
std::string delegate_threads;

LiteRtStatus GetName(LiteRtAcceleratorConst, const char** name) {
  *name = "larq-ensemble";
  return 0;
}

LiteRtStatus GetVersion(LiteRtAcceleratorConst, LiteRtApiVersion* version) {
  *version = {1, 0, 0};
  return 0;
}

LiteRtStatus GetHardwareSupport(LiteRtAcceleratorConst, int* supported) {
  *supported = kLiteRtHwAcceleratorCpu;
  return 0;
}

LiteRtStatus MakeDelegate(LiteRtRuntimeContext*, LiteRtEnvironment, LiteRtAcceleratorConst,
                          LiteRtOptions, LiteRtDelegateWrapper* wrapper) {
  const char* key = "num_threads";
  const char* value = delegate_threads.c_str();
  TfLiteDelegate* delegate = create_delegate(&key, &value, 1, nullptr);
  return delegate ? LiteRtWrapDelegate(delegate, destroy_delegate, wrapper) : 1;
}

void Register(LiteRtEnvironment environment, const LiteRtAcceleratorDef& definition) {
  LiteRtAccelerator accelerator;
  Check(LiteRtCreateAccelerator(&accelerator), "creating an accelerator");
  LiteRtSetAcceleratorGetName(accelerator, definition.get_name);
  LiteRtSetAcceleratorGetVersion(accelerator, definition.get_version);
  LiteRtSetAcceleratorGetHardwareSupport(accelerator, definition.get_hardware_support);
  LiteRtSetDelegateFunction(accelerator, definition.create_delegate);
  Check(LiteRtRegisterAccelerator(environment, accelerator, nullptr, nullptr),
        "registering an accelerator");
}

void RegisterDelegate(LiteRtEnvironment environment, const std::string& path, int threads) {
  // The library stays loaded: delegates live as long as their models.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  create_delegate =
      reinterpret_cast<CreateDelegate>(dlsym(library, "tflite_plugin_create_delegate"));
  destroy_delegate =
      reinterpret_cast<void (*)(TfLiteDelegate*)>(dlsym(library, "tflite_plugin_destroy_delegate"));
  if (!create_delegate || !destroy_delegate) throw std::runtime_error(path + " is no delegate");
  delegate_threads = std::to_string(threads);
  Register(environment, {{}, GetName, GetVersion, GetHardwareSupport, nullptr, MakeDelegate});
}

// The delegate comes first: XNNPACK, which takes what is left, would stop at LCE's operators.
void RegisterKernels(LiteRtEnvironment environment, const std::string& delegate, int threads) {
  if (!delegate.empty()) RegisterDelegate(environment, delegate, threads);
  Register(environment, *LiteRtStaticLinkedAcceleratorCpuDef);
}

}  // namespace

constexpr int kNewestVersion = 2;
constexpr char kCascadeRule[] = "log_margin";  // what LogMargin is for

Metadata::Metadata(const Json& json)
    : scheme(json["scheme"].string),
      members(static_cast<int>(json["members"].number)),
      classes(static_cast<int>(json["classes"].number)),
      weights(json["weights"].numbers()),
      temperatures(json["temperatures"].numbers()) {
  if (json["version"].number > kNewestVersion) {
    throw std::runtime_error("the file is of a newer version than this program");
  }
  const std::vector<double> shape = json["input_shape"].numbers();
  if (scheme.empty() || members < 1 || classes < 1 || shape.size() != 3) {
    throw std::runtime_error(
        "the metadata lack the scheme, the members, the classes or the input shape");
  }
  height = static_cast<int>(shape[0]);
  width = static_cast<int>(shape[1]);
  channels = static_cast<int>(shape[2]);
  if (weights.empty()) weights.assign(static_cast<size_t>(members), 1.);
  if (weights.size() != static_cast<size_t>(members) ||
      (!temperatures.empty() && temperatures.size() != weights.size())) {
    throw std::runtime_error("the metadata have not one weight and one temperature a member");
  }
  for (const Json& each : json["class_names"].array) class_names.push_back(each.string);
  const Json& cascade = json["cascade"];
  if (!cascade.is_null() && cascade["rule"].string != kCascadeRule) {
    throw std::runtime_error("this program doesn't know the rule of the cascade: " +
                             cascade["rule"].string);
  }
  for (const Json& each : cascade["thresholds"].array) {
    thresholds.push_back(each.is_null() ? std::numeric_limits<double>::infinity() : each.number);
  }
}

namespace {

Json ReadMetadata(LiteRtModel model) {
  const void* data;
  size_t bytes;
  Check(LiteRtGetModelMetadata(model, "larq_ensemble", &data, &bytes),
        "looking for the ensemble's metadata");
  return Json::Parse(std::string(static_cast<const char*>(data), bytes));
}

LiteRtEnvironment MakeEnvironment() {
  const LiteRtEnvOption options[] = {
      {kLiteRtEnvOptionTagMinLoggerSeverity, {kLiteRtAnyTypeInt, kLiteRtLogSeverityWarning}},
      {kLiteRtEnvOptionTagAutoRegisterAccelerators, {kLiteRtAnyTypeInt, 0}},  // see RegisterKernels
  };
  LiteRtEnvironment environment;
  Check(LiteRtCreateEnvironment(2, options, &environment), "starting LiteRT");
  return environment;
}

LiteRtModel ReadModel(LiteRtEnvironment environment, const std::string& path) {
  LiteRtModel model;
  Check(LiteRtCreateModelFromFile(environment, path.c_str(), &model), "reading " + path);
  return model;
}

// Signatures by key, without those of whole networks where the file also has their parts.
std::map<std::string, size_t> NeededSignatures(LiteRtModel model) {
  std::map<std::string, size_t> all, parts;
  size_t count;
  Check(LiteRtGetNumModelSignatures(model, &count), "reading the signatures");
  for (size_t i = 0; i < count; ++i) {
    LiteRtSignature signature;
    const char* key;
    Check(LiteRtGetModelSignature(model, i, &signature), "reading the signatures");
    Check(LiteRtGetSignatureKey(signature, &key), "reading the signatures");
    all[key] = i;
    if (std::strcmp(key, "prefix") == 0 || std::strncmp(key, "rest", 4) == 0) parts[key] = i;
  }
  return parts.empty() ? all : parts;
}

// Options reach the parts of LiteRT as TOML.
void AddOption(LiteRtOptions options, const char* part, const std::string& toml) {
  LiteRtOpaqueOptions added;
  Check(LiteRtCreateOpaqueOptions(part, strdup(toml.c_str()), std::free, &added), "making options");
  Check(LiteRtAddOpaqueOptions(options, added), "making options");
}

LiteRtCompiledModel Compile(LiteRtEnvironment environment, LiteRtModel model, int threads,
                            const std::string& delegate) {
  RegisterKernels(environment, delegate, threads);
  LiteRtOptions options;
  Check(LiteRtCreateOptions(&options), "making options");
  Check(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "making options");
  AddOption(options, "xnnpack", "num_threads = " + std::to_string(threads) + "\n");
  // XNNPACK would copy the filters of the others, too.
  std::string keys;
  for (const auto& [key, index] : NeededSignatures(model))
    keys += (keys.empty() ? "\"" : ", \"") + key + "\"";
  AddOption(options, "runtime_options_string", "selected_signature_keys = [" + keys + "]\n");
  LiteRtCompiledModel compiled;
  const LiteRtStatus status = LiteRtCreateCompiledModel(environment, model, options, &compiled);
  LiteRtDestroyOptions(options);
  Check(status, "preparing the model");
  return compiled;
}

}  // namespace

Ensemble::Ensemble(const std::string& path, int threads, const std::string& delegate)
    : environment_(MakeEnvironment()),
      model_(ReadModel(environment_.get(), path)),
      compiled_(Compile(environment_.get(), model_.get(), threads, delegate)),
      metadata_(ReadMetadata(model_.get())) {
  for (const auto& [key, index] : NeededSignatures(model_.get())) graphs_[key] = OpenGraph(index);
}

Ensemble::Graph Ensemble::OpenGraph(size_t index) {
  LiteRtSignature signature;
  Check(LiteRtGetModelSignature(model_.get(), index, &signature), "reading a signature");
  Graph graph{index, {}, {}};
  size_t count;
  const char* name;
  LiteRtTensor tensor;
  LiteRtTensorBufferRequirements requirements;
  Check(LiteRtGetNumSignatureInputs(signature, &count), "reading a signature");
  for (size_t i = 0; i < count; ++i) {
    Check(LiteRtGetSignatureInputName(signature, i, &name), "reading an input");
    Check(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor), "reading an input");
    Check(LiteRtGetCompiledModelInputBufferRequirements(compiled_.get(), index, i, &requirements),
          "reading an input");
    graph.inputs.push_back(BufferOf(name, tensor, requirements));
  }
  Check(LiteRtGetNumSignatureOutputs(signature, &count), "reading a signature");
  for (size_t i = 0; i < count; ++i) {
    Check(LiteRtGetSignatureOutputName(signature, i, &name), "reading an output");
    Check(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor), "reading an output");
    Check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_.get(), index, i, &requirements),
          "reading an output");
    graph.outputs.push_back(BufferOf(name, tensor, requirements));
  }
  return graph;
}

// Graphs share the buffers of a name: what the trunk writes is what the members read.
LiteRtTensorBuffer Ensemble::BufferOf(const std::string& name, LiteRtTensor tensor,
                                      LiteRtTensorBufferRequirements requirements) {
  Buffer& buffer = buffers_[name];
  if (!buffer) {
    LiteRtRankedTensorType type;
    Check(LiteRtGetRankedTensorType(tensor, &type), "reading the shape of " + name);
    LiteRtTensorBuffer made;
    Check(LiteRtCreateManagedTensorBufferFromRequirements(environment_.get(), &type, requirements,
                                                          &made),
          "allocating " + name);
    buffer.reset(made);
  }
  return buffer.get();
}

void Ensemble::Write(const std::string& name, const void* data, size_t bytes) {
  void* memory;
  Check(LiteRtLockTensorBuffer(buffers_.at(name).get(), &memory, kLiteRtLockModeWrite),
        "writing " + name);
  std::memcpy(memory, data, bytes);
  LiteRtUnlockTensorBuffer(buffers_.at(name).get());
}

void Ensemble::Run(const std::string& signature) {
  auto found = graphs_.find(signature);
  if (found == graphs_.end()) throw std::runtime_error("the file has no signature " + signature);
  Graph& graph = found->second;
  Check(LiteRtRunCompiledModel(compiled_.get(), graph.index, graph.inputs.size(),
                               graph.inputs.data(), graph.outputs.size(), graph.outputs.data()),
        "running " + signature + " (operators of Larq Compute Engine need the delegate)");
}

// What runs once an image: the shared trunk, or in the layout "branches" all members.
void Ensemble::Start(const std::vector<float>& pixels) {
  const auto [height, width, channels] =
      std::tuple(metadata_.height, metadata_.width, metadata_.channels);
  if (pixels.size() !=
      static_cast<size_t>(height) * static_cast<size_t>(width) * static_cast<size_t>(channels)) {
    throw std::runtime_error("an image must have " + std::to_string(height) + "x" +
                             std::to_string(width) + " pixels of " + std::to_string(channels) +
                             " channels");
  }
  Write("image", pixels.data(), pixels.size() * sizeof(float));
  if (Has("prefix")) Run("prefix");
  if (buffers_.count("logits_0")) Run("serving_default");
}

std::vector<float> Ensemble::Logits(int member) {
  std::string output = "logits";
  const std::string number = std::to_string(member);
  if (buffers_.count("logits_0")) {
    output += "_" + number;
  } else if (buffers_.count("member")) {  // a graph for all members
    const int32_t index = member;
    Write("member", &index, sizeof index);
    Run(Has("rest") ? "rest" : "serving_default");
  } else {
    Run((Has("rest_" + number) ? "rest_" : "member_") + number);
  }
  std::vector<float> logits(static_cast<size_t>(metadata_.classes));
  void* memory;
  Check(LiteRtLockTensorBuffer(buffers_.at(output).get(), &memory, kLiteRtLockModeRead),
        "reading logits");
  std::memcpy(logits.data(), memory, logits.size() * sizeof(float));
  LiteRtUnlockTensorBuffer(buffers_.at(output).get());
  return logits;
}

Prediction Ensemble::Combine(const std::vector<std::vector<float>>& logits) const {
  const double temperature =
      metadata_.temperatures.empty() ? 0 : metadata_.temperatures[logits.size() - 1];
  return {Combined(logits, metadata_.scheme, metadata_.weights, temperature),
          static_cast<int>(logits.size())};
}

Prediction Ensemble::Predict(const std::vector<float>& pixels, int members) {
  Start(pixels);
  std::vector<std::vector<float>> logits;
  for (int member = 0; member < members; ++member) logits.push_back(Logits(member));
  return Combine(logits);
}

Prediction Ensemble::PredictAdaptive(const std::vector<float>& pixels, int members) {
  if (metadata_.thresholds.size() + 1 != static_cast<size_t>(metadata_.members)) {
    throw std::runtime_error("the file has no thresholds: run larq-ensemble calibrate on it");
  }
  Start(pixels);
  std::vector<std::vector<float>> logits;
  for (;;) {
    const int count = static_cast<int>(logits.size()) + 1;
    logits.push_back(Logits(count - 1));
    Prediction prediction = Combine(logits);
    if (count == members || LogMargin(prediction.probabilities) >=
                                metadata_.thresholds[static_cast<size_t>(count) - 1]) {
      return prediction;
    }
  }
}
