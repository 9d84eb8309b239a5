// What the calls of the library have in common.
#pragma once

#include <cstdint>

#define TWISTNET_PUBLIC extern "C" __attribute__((visibility("default")))

namespace twistnet {

// What `done` says of an image: another decoder must try it, it is decoded, its memory has gone.
enum : std::uint8_t { kForAnother = 0, kDone = 1, kGone = 2 };

}  // namespace twistnet
