// How the members' logits become one prediction: as larq_ensemble.runtime.combination and .cascade.
#pragma once

#include <string>
#include <vector>

// Probabilities of the first logits.size() members, calibrated unless `temperature` is 0.
std::vector<float> Combined(const std::vector<std::vector<float>>& logits,
                            const std::string& scheme, const std::vector<double>& weights,
                            double temperature);

// The difference between the logarithms of the two largest probabilities; 0 for a single class.
double LogMargin(const std::vector<float>& probabilities);
