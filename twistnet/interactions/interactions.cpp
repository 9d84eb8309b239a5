// Interactions of channels and their gradients on a processor: rows of channels, a sample at a time.
//
// Threads are OpenMP's, as torch's are: a pool of our own would wait for cores on which torch's threads spin.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "clones.h"

namespace {

constexpr int kChannels = 8;                                       // of a head
constexpr int kProducts = kChannels + kChannels * (kChannels + 1) / 2;  // of a head: itself, then all pairs i <= j
constexpr int kTaps = 9;
constexpr double kEps = 1e-6;  // least norm that channels are divided by

#define INLINE inline __attribute__((always_inline))

// The 8 channels of a head side by side.
template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kChannels * sizeof(float))));
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kChannels * sizeof(double))));
};

template <typename T, typename V = typename Lanes<T>::Vector>
INLINE V load(const T* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

template <typename T, typename V>
INLINE void store(T* to, const V& value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

template <typename T, typename V>
INLINE T sum(const V& value) {
  return ((value[0] + value[4]) + (value[2] + value[6])) + ((value[1] + value[5]) + (value[3] + value[7]));
}

// Where the products of channel i stand, moved back by i, so that the one with channel j is j further.
INLINE int row_of(int i) { return kChannels + i * kChannels - i * (i - 1) / 2 - i; }

template <typename T>
struct Image {
  const T* z;        // (height, width, channels) of one sample
  const T* kernels;  // (channels, 9)
  int64_t height, width, channels;
};

// A head's channels with a frame of zeros, one after another: (height + 2, width + 2, 8).
template <typename T>
INLINE void frame(const T* rows, int64_t height, int64_t width, int64_t stride, T* out) {
  const int64_t line = (width + 2) * kChannels;
  std::fill(out, out + line, T(0));
  std::fill(out + (height + 1) * line, out + (height + 2) * line, T(0));
  for (int64_t y = 0; y < height; ++y) {
    T* to = out + (y + 1) * line;
    std::fill(to, to + kChannels, T(0));
    for (int64_t x = 0; x < width; ++x) {
      __builtin_memcpy(to + (x + 1) * kChannels, rows + (y * width + x) * stride, kChannels * sizeof(T));
    }
    std::fill(to + (width + 1) * kChannels, to + line, T(0));
  }
}

template <typename T, typename V = typename Lanes<T>::Vector>
INLINE void load_kernels(const T* kernels, V* taps) {
  for (int tap = 0; tap < kTaps; ++tap) {
    for (int channel = 0; channel < kChannels; ++channel) taps[tap][channel] = kernels[channel * kTaps + tap];
  }
}

// Values divided by their norm; `inverse` is what they were multiplied by.
template <typename T, typename V>
INLINE V unit(const V& value, T* inverse) {
  *inverse = T(1) / std::max(std::sqrt(sum<T>(value * value)), T(kEps));
  return value * *inverse;
}

template <typename T, typename V = typename Lanes<T>::Vector>
INLINE V twist(const T* centre, int64_t line, const V* taps) {
  V value = taps[4] * load(centre);
  for (int tap = 0; tap < kTaps; ++tap) {
    if (tap != 4) value += taps[tap] * load(centre + (tap / 3 - 1) * line + (tap % 3 - 1) * kChannels);
  }
  return value;
}

template <typename T>
INLINE void forward(const Image<T>& image, T* products, T* means, T* squares, T* framed) {
  using V = typename Lanes<T>::Vector;
  const int64_t heads = image.channels / kChannels, stride = heads * kProducts, line = (image.width + 2) * kChannels;
  const T share = T(1) / T(image.height * image.width);
  for (int64_t head = 0; head < heads; ++head) {
    V taps[kTaps]{}, own_sum{}, own_square{}, sums[kChannels]{}, square_sums[kChannels]{};
    load_kernels(image.kernels + head * kChannels * kTaps, taps);
    frame(image.z + head * kChannels, image.height, image.width, image.channels, framed);
    for (int64_t y = 0; y < image.height; ++y) {
      for (int64_t x = 0; x < image.width; ++x) {
        const T* centre = framed + (y + 1) * line + (x + 1) * kChannels;
        T inverse;
        const V first = unit<T>(load(centre), &inverse);
        const V second = unit<T>(twist(centre, line, taps), &inverse);
        T* out = products + (y * image.width + x) * stride + head * kProducts;
        // From the last row to the first: what a row writes before its first pair, the next one writes over.
        for (int i = kChannels - 1; i >= 0; --i) {
          const V both = first[i] * second;
          store(out + row_of(i), both);
          sums[i] += both;
          square_sums[i] += both * both;
        }
        store(out, first);
        own_sum += first;
        own_square += first * first;
      }
    }
    T *mean = means + head * kProducts, *square = squares + head * kProducts;
    for (int i = kChannels - 1; i >= 0; --i) {
      store(mean + row_of(i), sums[i] * share);
      store(square + row_of(i), square_sums[i] * share);
    }
    store(mean, own_sum * share);
    store(square, own_square * share);
  }
}

// The gradient before a division by the norm; below the least norm the divisor is a constant.
template <typename T, typename V>
INLINE V before_norm(const V& grad, const V& unit, T inverse) {
  const T along = inverse < T(1 / kEps) ? sum<T>(grad * unit) : T(0);
  return (grad - along * unit) * inverse;
}

// `scratch` holds three frames; `to_kernels` is this sample's share, (channels, 9).
template <typename T>
INLINE void backward(const Image<T>& image, const T* grad, const T* grad_means, const T* grad_squares, T* to_z,
                     T* to_kernels, T* scratch) {
  using V = typename Lanes<T>::Vector;
  const int64_t heads = image.channels / kChannels, stride = heads * kProducts, line = (image.width + 2) * kChannels;
  const int64_t size = (image.height + 2) * line;
  const T share = T(1) / T(image.height * image.width);
  T *framed = scratch, *twisted = scratch + size, *own = scratch + 2 * size;
  std::fill(twisted, twisted + size, T(0));  // its frame stays so
  for (int64_t head = 0; head < heads; ++head) {
    V taps[kTaps]{}, counts[kChannels]{}, mean[kChannels], square[kChannels];
    load_kernels(image.kernels + head * kChannels * kTaps, taps);
    frame(image.z + head * kChannels, image.height, image.width, image.channels, framed);
    const T *of_mean = grad_means + head * kProducts, *of_square = grad_squares + head * kProducts;
    for (int i = 0; i < kChannels; ++i) {
      for (int j = 0; j < kChannels; ++j) counts[i][j] = T(j >= i);
      mean[i] = load(of_mean + row_of(i)) * counts[i] * share;
      square[i] = load(of_square + row_of(i)) * counts[i] * (2 * share);
    }
    const V own_mean = load(of_mean) * share, own_square = load(of_square) * (2 * share);
    for (int64_t y = 0; y < image.height; ++y) {
      for (int64_t x = 0; x < image.width; ++x) {
        const int64_t place = (y + 1) * line + (x + 1) * kChannels;
        T first_inverse, second_inverse;
        const V first = unit<T>(load(framed + place), &first_inverse);
        const V second = unit<T>(twist(framed + place, line, taps), &second_inverse);
        const T* from = grad + (y * image.width + x) * stride + head * kProducts;
        V to_first = load(from) + own_mean + own_square * first, to_second{};
        for (int i = 0; i < kChannels; ++i) {
          const V pair = load(from + row_of(i)) * counts[i] + mean[i] + square[i] * (first[i] * second);
          to_first[i] += sum<T>(pair * second);
          to_second += pair * first[i];
        }
        store(own + place, before_norm<T>(to_first, first, first_inverse));
        store(twisted + place, before_norm<T>(to_second, second, second_inverse));
      }
    }
    V shares[kTaps]{};
    for (int64_t y = 0; y < image.height; ++y) {
      for (int64_t x = 0; x < image.width; ++x) {
        const int64_t place = (y + 1) * line + (x + 1) * kChannels;
        const V here = load(twisted + place);
        V total = load(own + place);
        for (int tap = 0; tap < kTaps; ++tap) {
          const int64_t step = (tap / 3 - 1) * line + (tap % 3 - 1) * kChannels;
          shares[tap] += here * load(framed + place + step);
          total += taps[tap] * load(twisted + place - step);  // seen by those that lie against the tap from here
        }
        store(to_z + (y * image.width + x) * image.channels + head * kChannels, total);
      }
    }
    for (int tap = 0; tap < kTaps; ++tap) {
      for (int channel = 0; channel < kChannels; ++channel) {
        to_kernels[(head * kChannels + channel) * kTaps + tap] = shares[tap][channel];
      }
    }
  }
}

template <typename T>
INLINE void scale_backward(const T* x, const T* scale, const T* grad, T* to_x, T* to_scale, T* to_shift, int64_t pixels,
                           int64_t channels) {
  std::fill(to_scale, to_scale + channels, T(0));
  std::fill(to_shift, to_shift + channels, T(0));
  for (int64_t row = 0; row < pixels; ++row, x += channels, grad += channels, to_x += channels) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      to_x[channel] = grad[channel] * scale[channel];
      to_scale[channel] += grad[channel] * x[channel];
      to_shift[channel] += grad[channel];
    }
  }
}

// A sample's work, compiled for several processors.
TWISTNET_CLONES void forward_sample(const Image<float>& image, float* products, float* means, float* squares,
                                    float* scratch) {
  forward(image, products, means, squares, scratch);
}
TWISTNET_CLONES void forward_sample(const Image<double>& image, double* products, double* means, double* squares,
                                    double* scratch) {
  forward(image, products, means, squares, scratch);
}
TWISTNET_CLONES void backward_sample(const Image<float>& image, const float* grad, const float* grad_means,
                                     const float* grad_squares, float* to_z, float* to_kernels, float* scratch) {
  backward(image, grad, grad_means, grad_squares, to_z, to_kernels, scratch);
}
TWISTNET_CLONES void backward_sample(const Image<double>& image, const double* grad, const double* grad_means,
                                     const double* grad_squares, double* to_z, double* to_kernels, double* scratch) {
  backward(image, grad, grad_means, grad_squares, to_z, to_kernels, scratch);
}
TWISTNET_CLONES void scale_backward_sample(const float* x, const float* scale, const float* grad, float* to_x,
                                           float* to_scale, float* to_shift, int64_t pixels, int64_t channels) {
  scale_backward(x, scale, grad, to_x, to_scale, to_shift, pixels, channels);
}
TWISTNET_CLONES void scale_backward_sample(const double* x, const double* scale, const double* grad, double* to_x,
                                           double* to_scale, double* to_shift, int64_t pixels, int64_t channels) {
  scale_backward(x, scale, grad, to_x, to_scale, to_shift, pixels, channels);
}

// As Python passes it; tensors are in one piece, those of one value a channel are (count, channels).
struct Batch {
  int64_t count, height, width, channels;
  int64_t threads;

  int64_t pixels() const { return height * width; }
  int64_t frame() const { return (height + 2) * (width + 2) * kChannels; }
  int64_t products() const { return channels / kChannels * kProducts; }
};

// `scratch` holds a frame for each thread.
template <typename T>
void forward_batch(const Batch& batch, const T* z, const T* kernels, T* products, T* means, T* squares, T* scratch) {
  const int64_t wide = batch.products();
#pragma omp parallel for num_threads(batch.threads) schedule(static)
  for (int64_t sample = 0; sample < batch.count; ++sample) {
    const Image<T> image{z + sample * batch.pixels() * batch.channels, kernels, batch.height, batch.width,
                         batch.channels};
    forward_sample(image, products + sample * batch.pixels() * wide, means + sample * wide, squares + sample * wide,
                   scratch + omp_get_thread_num() * batch.frame());
  }
}

// `scratch` holds three frames for each thread; `to_kernels` is (count, channels, 9).
template <typename T>
void backward_batch(const Batch& batch, const T* z, const T* kernels, const T* grad, const T* grad_means,
                    const T* grad_squares, T* to_z, T* to_kernels, T* scratch) {
  const int64_t wide = batch.products();
#pragma omp parallel for num_threads(batch.threads) schedule(static)
  for (int64_t sample = 0; sample < batch.count; ++sample) {
    const int64_t start = sample * batch.pixels() * batch.channels;
    const Image<T> image{z + start, kernels, batch.height, batch.width, batch.channels};
    backward_sample(image, grad + sample * batch.pixels() * wide, grad_means + sample * wide,
                    grad_squares + sample * wide, to_z + start, to_kernels + sample * batch.channels * kTaps,
                    scratch + 3 * omp_get_thread_num() * batch.frame());
  }
}

template <typename T>
void scale_backward_batch(const Batch& batch, const T* x, const T* scale, const T* grad, T* to_x, T* to_scale,
                          T* to_shift) {
#pragma omp parallel for num_threads(batch.threads) schedule(static)
  for (int64_t sample = 0; sample < batch.count; ++sample) {
    const int64_t start = sample * batch.pixels() * batch.channels, sums = sample * batch.channels;
    scale_backward_sample(x + start, scale + sums, grad + start, to_x + start, to_scale + sums, to_shift + sums,
                          batch.pixels(), batch.channels);
  }
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void twistnet_interactions_float(const Batch* batch, const float* z, const float* kernels, float* products,
                                          float* means, float* squares, float* scratch) {
  forward_batch(*batch, z, kernels, products, means, squares, scratch);
}
EXPORTED void twistnet_interactions_double(const Batch* batch, const double* z, const double* kernels, double* products,
                                           double* means, double* squares, double* scratch) {
  forward_batch(*batch, z, kernels, products, means, squares, scratch);
}
EXPORTED void twistnet_interactions_backward_float(const Batch* batch, const float* z, const float* kernels,
                                                   const float* grad, const float* grad_means,
                                                   const float* grad_squares, float* to_z, float* to_kernels,
                                                   float* scratch) {
  backward_batch(*batch, z, kernels, grad, grad_means, grad_squares, to_z, to_kernels, scratch);
}
EXPORTED void twistnet_interactions_backward_double(const Batch* batch, const double* z, const double* kernels,
                                                    const double* grad, const double* grad_means,
                                                    const double* grad_squares, double* to_z, double* to_kernels,
                                                    double* scratch) {
  backward_batch(*batch, z, kernels, grad, grad_means, grad_squares, to_z, to_kernels, scratch);
}
EXPORTED void twistnet_scale_backward_float(const Batch* batch, const float* x, const float* scale, const float* grad,
                                            float* to_x, float* to_scale, float* to_shift) {
  scale_backward_batch(*batch, x, scale, grad, to_x, to_scale, to_shift);
}
EXPORTED void twistnet_scale_backward_double(const Batch* batch, const double* x, const double* scale,
                                             const double* grad, double* to_x, double* to_scale, double* to_shift) {
  scale_backward_batch(*batch, x, scale, grad, to_x, to_scale, to_shift);
}
