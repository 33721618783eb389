// Just enough JSON to read the metadata of an ensemble file.
#pragma once

#include <cstdio>
#include <cstring>
#include <locale>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
  enum Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = kNull;
  double number = 0;  // of a bool: 0 or 1
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  // The value of a key; null if there is none.
  const Json& operator[](const std::string& key) const {
    static const Json null;
    auto found = object.find(key);
    return found == object.end() ? null : found->second;
  }
  bool is_null() const { return kind == kNull; }

  std::vector<double> numbers() const {
    std::vector<double> values;
    for (const Json& each : array) values.push_back(each.number);
    return values;
  }

  // Throws std::runtime_error if the text is no JSON.
  static Json Parse(const std::string& text);
};

namespace json_internal {

class Parser {
 public:
  explicit Parser(const std::string& text) : at_(text.c_str()), end_(at_ + text.size()) {}

  Json Document() {
    Json value = Value(0);
    if (Next() != '\0' || at_ != end_) Fail();
    return value;
  }

 private:
  static constexpr int kMaxDepth = 64;

  [[noreturn]] static void Fail() { throw std::runtime_error("the metadata is no JSON"); }

  char Next() {  // the next character that is no white space; '\0' at the end
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    return *at_;
  }

  bool Take(char expected) {
    if (Next() != expected) return false;
    ++at_;
    return true;
  }

  void Require(char expected) {
    if (!Take(expected)) Fail();
  }

  void Word(const char* word) {
    for (; *word; ++word, ++at_) {
      if (*at_ != *word) Fail();
    }
  }

  Json Value(int depth) {
    if (depth > kMaxDepth) Fail();
    Json value;
    switch (Next()) {
      case '{':
        value.kind = Json::kObject;
        ++at_;
        if (Take('}')) break;
        do {
          std::string key = String();
          Require(':');
          value.object[key] = Value(depth + 1);
        } while (Take(','));
        Require('}');
        break;
      case '[':
        value.kind = Json::kArray;
        ++at_;
        if (Take(']')) break;
        do {
          value.array.push_back(Value(depth + 1));
        } while (Take(','));
        Require(']');
        break;
      case '"':
        value.kind = Json::kString;
        value.string = String();
        break;
      case 't':
        value.kind = Json::kBool;
        value.number = 1;
        Word("true");
        break;
      case 'f':
        value.kind = Json::kBool;
        Word("false");
        break;
      case 'n':
        Word("null");
        break;
      default: {
        value.kind = Json::kNumber;
        value.number = Number();
      }
    }
    return value;
  }

  // With a decimal point, whatever the program's locale has.
  double Number() {
    const char* first = at_;
    while (at_ != end_ && std::strchr("+-.0123456789Ee", *at_)) ++at_;
    std::istringstream text(std::string(first, at_));
    text.imbue(std::locale::classic());
    double number;
    if (!(text >> number) || text.peek() != EOF) Fail();
    return number;
  }

  std::string String() {
    Require('"');
    std::string text;
    while (at_ != end_ && *at_ != '"') {
      if (*at_ != '\\') {
        text += *at_++;
        continue;
      }
      switch (*++at_) {
        case 'b':
          text += '\b';
          break;
        case 'f':
          text += '\f';
          break;
        case 'n':
          text += '\n';
          break;
        case 'r':
          text += '\r';
          break;
        case 't':
          text += '\t';
          break;
        case 'u':
          Append(CodePoint(), &text);
          break;
        case '\0':
          Fail();
        default:
          text += *at_;  // a quotation mark, a backslash or a slash
      }
      ++at_;
    }
    Require('"');
    return text;
  }

  unsigned Hex() {  // at the u of \uXXXX; ends on its last digit
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) {
      char c = *++at_;
      value = value * 16;
      if (c >= '0' && c <= '9')
        value += static_cast<unsigned>(c - '0');
      else if ((c | 32) >= 'a' && (c | 32) <= 'f')
        value += static_cast<unsigned>((c | 32) - 'a' + 10);
      else
        Fail();
    }
    return value;
  }

  unsigned CodePoint() {
    unsigned first = Hex();
    if (first < 0xD800 || first > 0xDBFF || at_[1] != '\\' || at_[2] != 'u') return first;
    at_ += 2;  // a surrogate pair
    return 0x10000 + ((first - 0xD800) << 10) + (Hex() - 0xDC00);
  }

  static void Append(unsigned c, std::string* text) {  // as UTF-8
    if (c < 0x80) {
      *text += static_cast<char>(c);
    } else if (c < 0x800) {
      *text += static_cast<char>(0xC0 | c >> 6);
      *text += static_cast<char>(0x80 | (c & 63));
    } else {
      if (c < 0x10000) {
        *text += static_cast<char>(0xE0 | c >> 12);
      } else {
        *text += static_cast<char>(0xF0 | c >> 18);
        *text += static_cast<char>(0x80 | (c >> 12 & 63));
      }
      *text += static_cast<char>(0x80 | (c >> 6 & 63));
      *text += static_cast<char>(0x80 | (c & 63));
    }
  }

  const char* at_;  // std::string ends with '\0', so looking one ahead is fine
  const char* end_;
};

}  // namespace json_internal

inline Json Json::Parse(const std::string& text) { return json_internal::Parser(text).Document(); }
