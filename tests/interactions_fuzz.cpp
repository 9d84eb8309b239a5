// Runs interactions and their gradients over images of all small sizes, each tensor in memory of exactly its length.
// Built with a sanitizer it ends at the first access out of bounds; it ends with 1 where a gradient is not finite.
#include <cmath>
#include <cstdint>
#include <vector>

struct Batch {
  std::int64_t count, height, width, channels, threads;
};

extern "C" {
void twistnet_interactions_float(const Batch*, const float*, const float*, float*, float*, float*, float*);
void twistnet_interactions_double(const Batch*, const double*, const double*, double*, double*, double*, double*);
void twistnet_interactions_backward_float(const Batch*, const float*, const float*, const float*, const float*,
                                          const float*, float*, float*, float*);
void twistnet_interactions_backward_double(const Batch*, const double*, const double*, const double*, const double*,
                                           const double*, double*, double*, double*);
void twistnet_scale_backward_float(const Batch*, const float*, const float*, const float*, float*, float*, float*);
void twistnet_scale_backward_double(const Batch*, const double*, const double*, const double*, double*, double*,
                                    double*);
}

template <typename T>
static std::vector<T> values(std::int64_t count) {
  std::vector<T> found(count);
  for (std::int64_t place = 0; place < count; ++place) found[place] = T((place * 37) % 11) / 10;
  return found;
}

template <typename T, typename Forward, typename Backward, typename Scale>
static bool run(Batch batch, Forward forward, Backward backward, Scale scale_backward) {
  const std::int64_t pixels = batch.count * batch.height * batch.width, wide = batch.channels / 8 * 44;
  const std::int64_t frame = (batch.height + 2) * (batch.width + 2) * 8;
  const auto z = values<T>(pixels * batch.channels), kernels = values<T>(batch.channels * 9);
  std::vector<T> products(pixels * wide), means(batch.count * wide), squares(batch.count * wide), one(frame);
  forward(&batch, z.data(), kernels.data(), products.data(), means.data(), squares.data(), one.data());
  std::vector<T> to_z(z.size()), to_kernels(batch.count * batch.channels * 9), three(3 * frame);
  backward(&batch, z.data(), kernels.data(), products.data(), means.data(), squares.data(), to_z.data(),
           to_kernels.data(), three.data());
  batch.channels = wide;
  std::vector<T> to_x(products.size()), to_scale(means.size()), to_shift(means.size());
  scale_backward(&batch, products.data(), means.data(), products.data(), to_x.data(), to_scale.data(),
                 to_shift.data());
  T total = 0;
  for (const auto* each : {&to_z, &to_kernels, &to_x, &to_scale, &to_shift}) {
    for (const T value : *each) total += std::abs(value);
  }
  return std::isfinite(total) && total > 0;
}

int main() {
  for (std::int64_t height = 1; height <= 6; ++height) {
    for (std::int64_t width = 1; width <= 6; ++width) {
      for (std::int64_t heads = 1; heads <= 3; ++heads) {
        const Batch batch{2, height, width, 8 * heads, 1};
        const bool fine = run<float>(batch, twistnet_interactions_float, twistnet_interactions_backward_float,
                                     twistnet_scale_backward_float) &&
                          run<double>(batch, twistnet_interactions_double, twistnet_interactions_backward_double,
                                      twistnet_scale_backward_double);
        if (!fine) return 1;
      }
    }
  }
  return 0;
}
