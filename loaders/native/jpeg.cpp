#include "jpeg.h"

#include <algorithm>

namespace twistnet {
namespace {

constexpr int kMargin = 2;  // columns beyond the region that its edges depend on where chroma is interpolated
constexpr JOCTET kMarker = 0xFF;

void nothing(j_decompress_ptr) {}
void no_output(j_common_ptr) {}
// Damage that libjpeg fills with gray goes to the other decoder, which says what it thinks of it.
void count_warning(j_common_ptr info, int level) {
  if (level < 0) ++info->err->num_warnings;
}

bool is_start_of_frame(int marker) { return marker == 0xC0 || marker == 0xC1 || marker == 0xC2; }

}  // namespace

bool has_end(const std::uint8_t* data, std::size_t length) {
  for (std::size_t at = length; at >= 2; --at) {
    if (data[at - 2] == kMarker && data[at - 1] == JPEG_EOI) return true;
  }
  return false;
}

JpegHeader jpeg_header(const std::uint8_t* data, std::size_t length) {
  JpegHeader found;
  if (length < 4 || data[0] != kMarker || data[1] != 0xD8) return found;
  std::size_t at = 2;
  while (at + 4 <= length) {
    if (data[at] != kMarker) return found;
    const int marker = data[at + 1];
    if (marker == kMarker) {  // filling
      ++at;
    } else if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD7)) {  // markers without content
      at += 2;
    } else if (marker == 0xDA) {
      found.scan = at;
      return found;
    } else if (marker == 0x00 || marker == 0xD9) {
      return found;
    } else {
      if (is_start_of_frame(marker)) {
        if (at + 10 > length) return found;
        const int components = data[at + 9];
        if (data[at + 4] != 8 || (components != 1 && components != 3)) return found;
        const Size size{data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]};
        if (static_cast<std::int64_t>(size.height) * size.width > kMaxPixels) return found;
        found.size = size;
      }
      at += 2 + static_cast<std::size_t>(data[at + 2] << 8 | data[at + 3]);
    }
  }
  return found;
}

void JpegReader::fail(j_common_ptr info) { std::longjmp(static_cast<JpegReader*>(info->client_data)->jump_, 1); }

JpegReader::JpegReader() {
  info_.err = jpeg_std_error(&errors_);
  info_.client_data = this;
  errors_.error_exit = fail;  // the default one ends the process
  errors_.emit_message = count_warning;
  errors_.output_message = no_output;
  source_.init_source = nothing;
  source_.term_source = nothing;
  source_.resync_to_restart = jpeg_resync_to_restart;
  source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {  // the data have ended too early
    fail(reinterpret_cast<j_common_ptr>(info));
  };
  source_.skip_input_data = [](j_decompress_ptr info, long count) {
    if (count <= 0) return;
    if (static_cast<std::size_t>(count) > info->src->bytes_in_buffer) fail(reinterpret_cast<j_common_ptr>(info));
    info->src->next_input_byte += count;
    info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
  };
}

JpegReader::~JpegReader() { end(); }

bool JpegReader::begin(const std::uint8_t* data, std::size_t length, Box region, int reduction) {
  end();
  source_.next_input_byte = data;
  source_.bytes_in_buffer = length;
  if (setjmp(jump_)) return false;
  // Made anew for every image: one that lacks its tables would take those of the image before.
  open_ = true;
  jpeg_create_decompress(&info_);
  errors_.num_warnings = 0;
  info_.src = &source_;
  jpeg_read_header(&info_, TRUE);
  const Size size{static_cast<int>(info_.image_height), static_cast<int>(info_.image_width)};
  if (!region.inside(size) || static_cast<std::int64_t>(size.height) * size.width > kMaxPixels) return false;
  if (info_.jpeg_color_space != JCS_GRAYSCALE && info_.jpeg_color_space != JCS_YCbCr &&
      info_.jpeg_color_space != JCS_RGB) {
    return false;
  }
  if (!has_end(source_.next_input_byte, source_.bytes_in_buffer)) return false;
  info_.out_color_space = JCS_EXT_RGBX;
  info_.scale_num = 1;
  info_.scale_denom = static_cast<unsigned>(reduction);
  jpeg_start_decompress(&info_);
  region = region.reduced(reduction);
  JDIMENSION left = static_cast<JDIMENSION>(std::max(region.left - kMargin, 0));
  const int right = std::min(region.left + region.width + kMargin, static_cast<int>(info_.output_width));
  JDIMENSION width = static_cast<JDIMENSION>(right) - left;
  if (width < info_.output_width) jpeg_crop_scanline(&info_, &left, &width);
  left_ = static_cast<int>(left);
  width_ = static_cast<int>(width);
  if (region.top > 0) jpeg_skip_scanlines(&info_, static_cast<JDIMENSION>(region.top));
  return true;
}

bool JpegReader::read(std::uint8_t* rows, std::size_t stride, int count) {
  if (setjmp(jump_)) return false;
  for (int done = 0; done < count;) {
    JSAMPROW pointers[16];
    const int asked = std::min(count - done, 16);
    for (int row = 0; row < asked; ++row) pointers[row] = rows + stride * static_cast<std::size_t>(done + row);
    const int got = static_cast<int>(jpeg_read_scanlines(&info_, pointers, static_cast<JDIMENSION>(asked)));
    if (got == 0) return false;
    done += got;
  }
  return errors_.num_warnings == 0;
}

void JpegReader::end() {
  if (open_) jpeg_destroy_decompress(&info_);
  open_ = false;
}

}  // namespace twistnet
