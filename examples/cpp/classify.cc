// Classifies images with an ensemble file, on LiteRT and without Python.
//
//   classify ensemble.tflite [--members M] [--adaptive] [--threads T] [--delegate LIB.so] IMAGE...
//
// An image is a binary PPM or PGM, or raw pixels [height][width][channels] of a byte each, of the
// size that the file takes. ImageMagick crops and resizes a photo as `larq-ensemble predict` does:
//
//   convert photo.jpg -auto-orient -alpha off -filter Triangle -resize '32x32^'
//     -gravity center -extent 32x32 photo.ppm
//
// A line for each: name, class, probability, members that ran.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "ensemble.h"

namespace {

struct Arguments {
  std::string file, delegate;
  std::vector<std::string> images;
  int members = 0;  // 0: all
  int threads = 1;
  bool adaptive = false;
};

[[noreturn]] void Usage(const std::string& what) {
  std::cerr
      << "classify: " << what
      << "\nUsage: classify F.tflite [--members M] [--adaptive] [--threads T] [--delegate LIB.so] "
         "IMAGE...\n";
  std::exit(2);
}

int Positive(const std::string& option, const std::string& text) {
  char* end;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < 1 || value > 1 << 20) {
    Usage(option + " takes a whole number from 1 on, got '" + text + "'");
  }
  return static_cast<int>(value);
}

Arguments Parse(int count, char** words) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--adaptive") {
      arguments.adaptive = true;
    } else if (word == "--members" || word == "--threads" || word == "--delegate") {
      if (++i == count) Usage(word + " takes a value");
      if (word == "--members") arguments.members = Positive(word, words[i]);
      if (word == "--threads") arguments.threads = Positive(word, words[i]);
      if (word == "--delegate") arguments.delegate = words[i];
    } else if (word.rfind("--", 0) == 0) {
      Usage("unknown option " + word);
    } else if (arguments.file.empty()) {
      arguments.file = word;
    } else {
      arguments.images.push_back(word);
    }
  }
  if (arguments.images.empty()) Usage("name a file and an image");
  return arguments;
}

// A number of a PPM's header; comments may stand before it.
size_t HeaderNumber(const std::string& bytes, size_t* at) {
  while (*at < bytes.size() &&
         (std::isspace(static_cast<unsigned char>(bytes[*at])) || bytes[*at] == '#')) {
    *at = bytes[*at] == '#' ? bytes.find('\n', *at) : *at + 1;
  }
  size_t number = 0;
  for (; *at < bytes.size() && std::isdigit(static_cast<unsigned char>(bytes[*at])) &&
         number < 1 << 20;
       ++*at) {
    number = 10 * number + static_cast<size_t>(bytes[*at] - '0');
  }
  return number;
}

// Pixels 0 to 255, [height][width][channels] of the size that the file takes.
std::vector<float> ReadImage(const std::string& path, const Metadata& metadata) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("can't read " + path);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const size_t height = static_cast<size_t>(metadata.height),
               width = static_cast<size_t>(metadata.width),
               channels = static_cast<size_t>(metadata.channels);
  size_t at = 0;
  const bool is_raw = bytes.size() == height * width * channels;
  if (!is_raw && (bytes.rfind("P6", 0) == 0 || bytes.rfind("P5", 0) == 0)) {
    const size_t found_channels = bytes[1] == '6' ? 3 : 1;
    at = 2;
    const size_t found_width = HeaderNumber(bytes, &at), found_height = HeaderNumber(bytes, &at);
    const size_t maximum = HeaderNumber(bytes, &at);
    ++at;  // one white space
    if (found_width != width || found_height != height || found_channels != channels ||
        maximum != 255) {
      throw std::runtime_error(path + " has " + std::to_string(found_width) + "x" +
                               std::to_string(found_height) + "x" + std::to_string(found_channels) +
                               " values up to " + std::to_string(maximum) + ", the file takes " +
                               std::to_string(width) + "x" + std::to_string(height) + "x" +
                               std::to_string(channels) + " up to 255");
    }
  }
  if (at == 0 && !is_raw) {
    throw std::runtime_error(path + " is neither a binary PPM or PGM nor " + std::to_string(width) +
                             "x" + std::to_string(height) + "x" + std::to_string(channels) +
                             " bytes of pixels");
  }
  if (bytes.size() < at || bytes.size() - at != height * width * channels) {
    throw std::runtime_error(path + " has not " + std::to_string(width) + "x" +
                             std::to_string(height) + "x" + std::to_string(channels) +
                             " bytes of pixels");
  }
  std::vector<float> pixels;
  for (; at < bytes.size(); ++at) pixels.push_back(static_cast<unsigned char>(bytes[at]));
  return pixels;
}

void Classify(const Arguments& arguments) {
  Ensemble ensemble(arguments.file, arguments.threads, arguments.delegate);
  const Metadata& metadata = ensemble.metadata();
  const int members = arguments.members ? arguments.members : metadata.members;
  if (members > metadata.members) {
    throw std::runtime_error("--members must be from 1 to " + std::to_string(metadata.members));
  }
  for (const std::string& path : arguments.images) {
    const std::vector<float> pixels = ReadImage(path, metadata);
    const Prediction prediction = arguments.adaptive ? ensemble.PredictAdaptive(pixels, members)
                                                     : ensemble.Predict(pixels, members);
    size_t best = 0;
    for (size_t c = 1; c < prediction.probabilities.size(); ++c) {
      if (prediction.probabilities[c] > prediction.probabilities[best]) best = c;
    }
    const std::string name =
        best < metadata.class_names.size() ? metadata.class_names[best] : std::to_string(best);
    std::printf("%s\t%s\t%.4f\t%d\n", path.c_str(), name.c_str(),
                static_cast<double>(prediction.probabilities[best]), prediction.members);
  }
}

}  // namespace

int main(int count, char** words) {
  const Arguments arguments = Parse(count, words);
  try {
    Classify(arguments);
  } catch (const std::exception& error) {
    std::cerr << "classify: " << error.what() << "\n";
    return 1;
  }
}
