// An ensemble file on LiteRT: its first m members, or as many as an image needs.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "json.h"
#include "litert.h"

// What the file says about itself.
struct Metadata {
  // Throws std::runtime_error if something is missing.
  explicit Metadata(const Json& json);

  std::string scheme;
  int members, classes, height, width, channels;
  std::vector<std::string> class_names;  // may be empty
  std::vector<double> weights;           // one a member
  std::vector<double> temperatures;      // for 1 to M members; empty: not calibrated
  std::vector<double> thresholds;        // for 1 to M - 1 members; infinity: never enough
};

struct Prediction {
  std::vector<float> probabilities;
  int members;  // that ran
};

// Not thread-safe: one object a thread. Errors are std::runtime_error.
class Ensemble {
 public:
  // `delegate` is the path of liblarq_ensemble_delegate.so, which a file for Larq Compute Engine
  // needs; empty: the file has builtin operators only. A process has one delegate.
  Ensemble(const std::string& path, int threads, const std::string& delegate = "");

  const Metadata& metadata() const { return metadata_; }

  // The prediction of the first `members` members for [height][width][channels] of 0 to 255.
  Prediction Predict(const std::vector<float>& pixels, int members);

  // Runs member after member, `members` at most, until the prediction is confident.
  Prediction PredictAdaptive(const std::vector<float>& pixels, int members);

 private:
  template <auto destroy>
  struct Destroy {
    template <typename T>
    void operator()(T* object) const {
      destroy(object);
    }
  };
  template <typename T, auto destroy>
  using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy<destroy>>;
  using Buffer = Owned<LiteRtTensorBuffer, LiteRtDestroyTensorBuffer>;

  // A graph of the file, with the buffers that it reads and writes.
  struct Graph {
    size_t index;
    std::vector<LiteRtTensorBuffer> inputs, outputs;
  };

  Graph OpenGraph(size_t index);
  LiteRtTensorBuffer BufferOf(const std::string& name, LiteRtTensor tensor,
                              LiteRtTensorBufferRequirements requirements);
  bool Has(const std::string& signature) const { return graphs_.count(signature) > 0; }
  void Run(const std::string& signature);
  void Write(const std::string& name, const void* data, size_t bytes);
  void Start(const std::vector<float>& pixels);
  std::vector<float> Logits(int member);
  Prediction Combine(const std::vector<std::vector<float>>& logits) const;

  // In the order in which they need each other.
  Owned<LiteRtEnvironment, LiteRtDestroyEnvironment> environment_;
  Owned<LiteRtModel, LiteRtDestroyModel> model_;
  Owned<LiteRtCompiledModel, LiteRtDestroyCompiledModel> compiled_;
  Metadata metadata_;
  std::map<std::string, Buffer> buffers_;  // by the name of the input or output
  std::map<std::string, Graph> graphs_;    // by signature
};
