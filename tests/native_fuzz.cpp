// Decodes mutated copies of the files that it is given, each in memory of exactly its length, and prints how many were
// sized and decoded, and a hash of all pixels. Built with a sanitizer it ends at the first access out of bounds.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" {
void* twistnet_open(std::int32_t);
void twistnet_close(void*);
void twistnet_sizes(std::int64_t, const std::uint64_t*, const std::uint64_t*, std::int64_t*);
void twistnet_decode(void*, std::int64_t, const std::uint64_t*, const std::uint64_t*, const std::int64_t*,
                     const std::int64_t*, const std::int64_t*, const std::uint8_t*, std::int32_t, std::int32_t,
                     std::int32_t, std::uint8_t*, std::uint8_t*);
}

static std::uint64_t state = 1;
static std::uint64_t draw(std::uint64_t below) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state % below;
}

static std::vector<std::uint8_t> mutated(const std::vector<std::uint8_t>& file) {
  std::vector<std::uint8_t> found = file;
  const std::uint64_t changes = draw(4);
  for (std::uint64_t change = 0; change < changes; ++change) {
    // Half of them in the header, which is where lengths and tables stand.
    const std::uint64_t at = draw(draw(2) ? found.size() : (found.size() < 700 ? found.size() : 700));
    found[at] = draw(3) ? static_cast<std::uint8_t>(draw(256)) : 0xFF;
  }
  if (draw(4) == 0) found.resize(1 + draw(found.size()));
  if (draw(8) == 0) found.insert(found.end(), {0xFF, 0xD9});
  return found;
}

int main(int count, char** names) {
  const int rounds = std::atoi(names[1]);
  constexpr int kSide = 29;
  void* decoder = twistnet_open(2);
  std::uint64_t hash = 1469598103934665603u, sized = 0, decoded = 0;
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::uint8_t*> copies;
    std::vector<std::uint64_t> data, lengths;
    std::vector<std::uint8_t> flips;
    std::vector<std::int64_t> counts, boxes;
    for (int file = 2; file < count; ++file) {
      std::ifstream stream(names[file], std::ios::binary);
      const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(stream), {}};
      const std::vector<std::uint8_t> changed = round == 0 ? bytes : mutated(bytes);
      copies.push_back(static_cast<std::uint8_t*>(std::malloc(changed.size())));
      std::memcpy(copies.back(), changed.data(), changed.size());
      data.push_back(reinterpret_cast<std::uint64_t>(copies.back()));
      lengths.push_back(changed.size());
    }
    std::vector<std::int64_t> sizes(2 * data.size()), shapes(2 * data.size());
    twistnet_sizes(static_cast<std::int64_t>(data.size()), data.data(), lengths.data(), sizes.data());
    // One more, of raw pixels.
    const std::int64_t height = 1 + static_cast<std::int64_t>(draw(40)), width = 1 + static_cast<std::int64_t>(draw(40));
    copies.push_back(static_cast<std::uint8_t*>(std::malloc(3 * height * width)));
    for (std::int64_t at = 0; at < 3 * height * width; ++at) copies.back()[at] = static_cast<std::uint8_t>(draw(256));
    data.push_back(reinterpret_cast<std::uint64_t>(copies.back()));
    lengths.push_back(static_cast<std::uint64_t>(3 * height * width));
    sizes.insert(sizes.end(), {height, width});
    shapes.insert(shapes.end(), {height, width});
    for (std::size_t image = 0; image < data.size(); ++image) {
      const std::int64_t h = sizes[2 * image], w = sizes[2 * image + 1];
      sized += h > 0;
      counts.push_back(1 + static_cast<std::int64_t>(draw(3)));
      for (std::int64_t box = 0; box < counts.back(); ++box) {
        // Often the whole of it, which a large image needs to be decoded smaller.
        const bool whole = draw(4) == 0;
        const std::int64_t bh = whole && h ? h : 1 + (h ? static_cast<std::int64_t>(draw(h)) : 0);
        const std::int64_t bw = whole && w ? w : 1 + (w ? static_cast<std::int64_t>(draw(w)) : 0);
        // Now and then outside of the image, which has to be refused, and always where decoding would take long.
        const std::int64_t beyond = h * w > 4'000'000 ? h : draw(50) ? 0 : 1;
        boxes.insert(boxes.end(), {static_cast<std::int64_t>(draw(h ? h - bh + 1 : 1)) + beyond,
                                   static_cast<std::int64_t>(draw(w ? w - bw + 1 : 1)), bh, bw});
        flips.push_back(static_cast<std::uint8_t>(draw(2)));
      }
    }
    std::vector<std::uint8_t> out(flips.size() * kSide * kSide * 3), done(data.size());
    twistnet_decode(decoder, static_cast<std::int64_t>(data.size()), data.data(), lengths.data(), shapes.data(),
                    counts.data(), boxes.data(), flips.data(), static_cast<std::int32_t>(draw(2)), kSide,
                    kSide, out.data(), done.data());
    std::size_t at = 0;
    for (std::size_t image = 0; image < data.size(); ++image) {
      decoded += done[image];
      const std::size_t bytes = static_cast<std::size_t>(counts[image]) * kSide * kSide * 3;
      for (std::size_t byte = 0; done[image] && byte < bytes; ++byte) hash = (hash ^ out[at + byte]) * 1099511628211u;
      at += bytes;
    }
    for (std::uint8_t* copy : copies) std::free(copy);
  }
  twistnet_close(decoder);
  std::printf("%llu %llu %llx\n", static_cast<unsigned long long>(sized), static_cast<unsigned long long>(decoded),
              static_cast<unsigned long long>(hash));
}
