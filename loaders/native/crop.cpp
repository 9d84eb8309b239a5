#include "crop.h"

#include <algorithm>
#include <cstring>

namespace twistnet {
namespace {

// Pillow 13 begins with the columns where the box loses far more rows than columns; each pass rounds to 8 bits, so the
// order shows. Found by comparing both orders with its results.
bool begins_with_columns(Box box, Output output) {
  return box.height - output.height > 2 * std::max(box.width - output.width, 0);
}

// Where a box's side lies on the `pixels` pixels from `first` on that cover it.
Span on_pixels(int start, int length, int first, int pixels, int reduction) {
  const double smaller = reduction;
  return {pixels, start / smaller - first, length / smaller};
}

}  // namespace

void Crop::set(Box box, int reduction, Output output, bool flip) {
  box_ = box.reduced(reduction);
  output_ = output;
  columns_.set(on_pixels(box.left, box.width, box_.left, box_.width, reduction), output.width, output.filter, flip);
  rows_.set(on_pixels(box.top, box.height, box_.top, box_.height, reduction), output.height, output.filter, false);
  columns_first_ = begins_with_columns(box_, output);
  window_top_ = window_rows_ = done_ = 0;
  if (!columns_first_) half_.resize(output.row_bytes() * static_cast<std::size_t>(box_.height));
}

void Crop::take(const std::uint8_t* rows, int bytes, std::size_t stride, int top, int bottom, int left) {
  const int first = std::max(top, box_.top), end = std::min(bottom, box_.top + box_.height);
  rows += stride * static_cast<std::size_t>(std::max(first - top, 0)) +
          static_cast<std::size_t>(bytes) * static_cast<std::size_t>(box_.left - left);
  if (columns_first_) {
    for (int row = first; row < end; ++row, rows += stride) keep(rows, bytes);
    return;
  }
  const std::size_t out_stride = output_.row_bytes();
  for (int row = first; row < end; row += kRows, rows += stride * kRows) {
    resample_rows(rows, bytes, stride, std::min(kRows, end - row), columns_,
                  half_.data() + out_stride * static_cast<std::size_t>(row - box_.top), out_stride);
  }
}

void Crop::keep(const std::uint8_t* row, int bytes) {
  const std::size_t length = static_cast<std::size_t>(bytes) * static_cast<std::size_t>(box_.width);
  if (window_rows_ == 0 && done_ == 0) {
    bytes_ = bytes;
    half_.resize(length * static_cast<std::size_t>(output_.height + kRows) + kSlack);
  }
  const std::size_t at = length * static_cast<std::size_t>(window_rows_);
  if (window_.size() < at + length) window_.resize(at + length);
  std::memcpy(window_.data() + at, row, length);
  ++window_rows_;
  for (; done_ < output_.height; ++done_) {
    const int first = rows_.first(done_) - window_top_;
    if (first + rows_.count(done_) > window_rows_) break;
    resample_column(window_.data() + length * static_cast<std::size_t>(first), length, length, rows_,
                    done_, half_.data() + length * static_cast<std::size_t>(done_));
  }
  // Moved up only when half of it is needed no more, so that a row is moved once or twice.
  const int unused = (done_ < output_.height ? rows_.first(done_) : box_.height) - window_top_;
  if (2 * unused > window_rows_ && unused <= window_rows_) {
    window_rows_ -= unused;
    window_top_ += unused;
    std::memmove(window_.data(), window_.data() + length * static_cast<std::size_t>(unused),
                 length * static_cast<std::size_t>(window_rows_));
  }
}

void Crop::finish(std::uint8_t* out) {
  const std::size_t out_stride = output_.row_bytes();
  if (columns_first_) {
    const std::size_t stride = static_cast<std::size_t>(bytes_) * static_cast<std::size_t>(box_.width);
    for (int row = 0; row < output_.height; row += kRows) {
      resample_rows(half_.data() + stride * static_cast<std::size_t>(row), bytes_, stride,
                    std::min(kRows, output_.height - row), columns_, out + out_stride * static_cast<std::size_t>(row),
                    out_stride);
    }
    return;
  }
  for (int row = 0; row < output_.height; ++row) {
    resample_column(half_.data() + out_stride * static_cast<std::size_t>(rows_.first(row)), out_stride,
                    out_stride, rows_, row, out + out_stride * static_cast<std::size_t>(row));
  }
}

}  // namespace twistnet
