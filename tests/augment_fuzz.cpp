// Every operation on images of odd sizes, with parameters of any magnitude that the tables can hold, for the sanitizers.
// Prints a hash of all results.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" {
void* twistnet_augment_open(std::int32_t threads);
void twistnet_augment_close(void* pool);
std::int32_t twistnet_operations(void* pool, std::int64_t n, std::int32_t height, std::int32_t width, std::int32_t slots,
                                 const std::uint8_t* images, const std::int32_t* kinds, const float* parameters,
                                 const std::uint8_t* fill, std::uint8_t* out);
std::int32_t twistnet_finish(void* pool, std::int64_t n, std::int32_t height, std::int32_t width,
                             const std::uint8_t* images, const float* mean, const float* std, const std::int32_t* erased,
                             const float* colours, const std::int32_t* mixing, const float* weights, float* out);
}

namespace {

constexpr int kKinds = 14, kParameters = 8, kSlots = 4;

std::mt19937 generator(7);

std::int32_t draw(std::int32_t below) { return static_cast<std::int32_t>(generator() % static_cast<unsigned>(below)); }

float between(float low, float high) { return low + (high - low) * static_cast<float>(draw(1 << 20)) / (1 << 20); }

// What loaders/augment/spaces.py could make of the strongest magnitudes, and beyond.
void parameters_of(int kind, int height, int width, float* to) {
  const float reach = draw(4) ? 0.5f : 3.0f;
  for (int place = 0; place < kParameters; ++place) to[place] = between(-reach, reach);
  if (kind == 1) {  // a shift
    to[0] = static_cast<float>(draw(4 * width) - 2 * width);
    to[1] = static_cast<float>(draw(4 * height) - 2 * height);
  }
  if (kind == 3 && draw(2)) to[2] = to[5] = between(-1000.0f, 1000.0f);
  if (kind == 6) {  // weights of a blur: positive, their sum about 1
    for (int place = 0; place < kParameters; ++place) to[place] = between(0.0f, 0.08f);
  }
  if (kind == 8) to[0] = static_cast<float>(draw(256));
  if (kind == 9 || kind == 10) to[0] = between(0.0f, 256.0f);
  if (kind == 10) to[1] = between(0.0f, 256.0f);
}

}  // namespace

int main(int, char** arguments) {
  const int rounds = std::atoi(arguments[1]);
  void* pool = twistnet_augment_open(3);
  std::uint64_t hash = 1469598103934665603u;
  const auto add = [&hash](const void* data, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; ++at) {
      hash = (hash ^ static_cast<const std::uint8_t*>(data)[at]) * 1099511628211u;
    }
  };
  for (int round = 0; round < rounds; ++round) {
    const std::int32_t height = 1 + draw(40), width = 1 + draw(40), n = 2 + draw(30), slots = 1 + draw(kSlots);
    const std::size_t count = static_cast<std::size_t>(n), bytes = count * 3 * static_cast<std::size_t>(height * width);
    std::vector<std::uint8_t> images(bytes), out(bytes);
    for (std::uint8_t& value : images) value = static_cast<std::uint8_t>(round % 3 ? draw(256) : draw(3));
    std::vector<std::int32_t> kinds(count * static_cast<std::size_t>(slots));
    std::vector<float> parameters(kinds.size() * kParameters);
    for (std::size_t at = 0; at < kinds.size(); ++at) {
      kinds[at] = draw(kKinds);
      parameters_of(kinds[at], height, width, parameters.data() + kParameters * at);
    }
    const std::uint8_t fill[3] = {9, 200, 30};
    if (!twistnet_operations(pool, n, height, width, slots, images.data(), kinds.data(), parameters.data(), fill,
                             out.data())) {
      return 1;
    }
    add(out.data(), out.size());
    std::vector<std::int32_t> erased, mixing;
    std::vector<float> colours, weights, finished(bytes);
    const auto box = [&](std::vector<std::int32_t>& to) {
      const std::int32_t top = draw(height + 1), left = draw(width + 1);
      const bool empty = draw(2) == 0;
      to.insert(to.end(), {top, left, empty ? top : top + draw(height - top + 1), left + draw(width - left + 1)});
    };
    for (std::int32_t sample = 0; sample < n; ++sample) {
      box(erased);
      mixing.insert(mixing.end(), {draw(3), draw(n)});
      box(mixing);
      weights.push_back(between(0.0f, 1.0f));
      for (int channel = 0; channel < 3; ++channel) colours.push_back(between(-3.0f, 3.0f));
    }
    const float mean[3] = {123.675f, 116.28f, 103.53f}, std[3] = {58.395f, 57.12f, 57.375f};
    if (!twistnet_finish(pool, n, height, width, out.data(), mean, std, erased.data(), colours.data(), mixing.data(),
                         weights.data(), finished.data())) {
      return 1;
    }
    add(finished.data(), finished.size() * sizeof(float));
  }
  twistnet_augment_close(pool);
  std::printf("%llx\n", static_cast<unsigned long long>(hash));
}
