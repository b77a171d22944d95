// Refusing an op's numbers and names, in the words of libra_d2/ops/_checks.py: "<op>: expected ..., got ...". Free of
// torch, so that the emulated kernels check as well; Python gets a ValueError. tensor_checks.cpp checks tensors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace libra_d2 {

inline std::string text_of(const char* text) { return text; }
inline const std::string& text_of(const std::string& text) { return text; }

template <class Integer, std::enable_if_t<std::is_integral_v<Integer>, int> = 0>
std::string text_of(Integer value) {
  return std::to_string(value);
}

// As Python writes a float: with no more digits than it takes to tell it from its neighbours.
inline std::string text_of(double value) {
  if (std::isnan(value)) return "nan";
  const bool fixed = value == 0 || (std::abs(value) >= 1e-4 && std::abs(value) < 1e16);
  char text[64];
  for (int digits = fixed ? 1 : 0; digits <= 21; ++digits) {
    std::snprintf(text, sizeof(text), fixed ? "%.*f" : "%.*e", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  throw std::invalid_argument((std::string() + ... + text_of(parts)));
}

template <class Values>
std::string list_of(const Values& values) {
  std::string text;
  for (const auto value : values) text += (text.empty() ? "" : ", ") + text_of(value);
  return "[" + text + "]";
}

inline void check_finite(const char* op, const char* name, double value) {
  if (!std::isfinite(value)) refuse(op, ": expected ", name, " to be a finite number, got ", value);
}

inline void check_fraction(const char* op, const char* name, double value) {
  if (!(value >= 0 && value <= 1)) refuse(op, ": expected ", name, " to be a number from 0 to 1, got ", value);
}

inline void check_count(const char* op, const char* name, int64_t value, int64_t most) {
  if (value < 1) refuse(op, ": expected ", name, " >= 1, got ", value);
  if (value > most) refuse(op, ": expected ", name, " <= ", most, ", got ", value);
}

// The place of `value` among the choices.
inline int choice(const char* op, const char* name, const std::string& value,
                  std::initializer_list<const char*> choices) {
  int index = 0;
  std::string allowed;
  for (const char* c : choices) {
    if (value == c) return index;
    allowed += (index++ ? ", '" : "'") + std::string(c) + "'";
  }
  refuse(op, ": expected ", name, " to be one of ", allowed, ", got '", value, "'");
}

}  // namespace libra_d2
