// Counts the words of files with cppjieba: a document a line, a hash table per thread, merged at
// the end.
//
//     count-cppjieba THREADS DICTIONARY MODEL OUTPUT FILE...
//
// Prints the seconds from opening the files to the finished table, and writes it to OUTPUT.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "cppjieba/MixSegment.hpp"

namespace {

constexpr size_t kBlock = size_t{1} << 18;  // stays in a core's cache
constexpr size_t kRest = size_t{1} << 14;   // is read at once of what a line has after its block

uint64_t hash_of(std::string_view token) {
  constexpr uint64_t kFactor = 0x9E3779B97F4A7C15;
  uint64_t hash = token.size() * kFactor;
  const char* at = token.data();
  size_t left = token.size();
  while (left > 0) {
    uint64_t word = 0;
    const size_t step = left < 8 ? left : 8;
    if (step == 8) {
      std::memcpy(&word, at, 8);
    } else {
      for (size_t i = 0; i < step; ++i) word |= uint64_t(uint8_t(at[i])) << (8 * i);
    }
    const unsigned __int128 product = (unsigned __int128)(hash ^ word) * kFactor;
    hash = uint64_t(product) ^ uint64_t(product >> 64);
    at += step;
    left -= step;
  }
  return hash;
}

// A hash table with open addressing; the bytes of its keys lie in chunks of its own.
class Table {
 public:
  Table() : slots_(size_t{1} << 16) {}

  void add(std::string_view token, uint64_t count) { add(token, hash_of(token), count); }

  void merge(const Table& other) {
    for (const Slot& slot : other.slots_) {
      if (slot.count) add({slot.key, slot.size}, slot.hash, slot.count);
    }
  }

  size_t size() const { return used_; }

  void write(std::FILE* file) const {
    for (const Slot& slot : slots_) {
      if (!slot.count) continue;
      std::fwrite(slot.key, 1, slot.size, file);
      std::fprintf(file, "\t%llu\n", static_cast<unsigned long long>(slot.count));
    }
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint64_t count = 0;  // 0 is an empty slot
    const char* key = nullptr;
    size_t size = 0;
  };

  void add(std::string_view token, uint64_t hash, uint64_t count) {
    Slot& slot = find(token, hash);
    if (slot.count) {
      slot.count += count;
      return;
    }
    slot = {hash, count, kept(token), token.size()};
    if (++used_ * 2 > slots_.size()) grow();
  }

  Slot& find(std::string_view token, uint64_t hash) {
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
      Slot& slot = slots_[at];
      const bool same = slot.hash == hash && slot.size == token.size();
      if (!slot.count || (same && !std::memcmp(slot.key, token.data(), token.size()))) return slot;
    }
  }

  void grow() {
    std::vector<Slot> before(slots_.size() * 2);
    before.swap(slots_);
    const size_t mask = slots_.size() - 1;
    for (const Slot& slot : before) {
      if (!slot.count) continue;
      size_t at = slot.hash & mask;
      while (slots_[at].count) at = (at + 1) & mask;
      slots_[at] = slot;
    }
  }

  const char* kept(std::string_view token) {
    if (token.size() > room_) {
      room_ = token.size() > kRest ? token.size() : kRest;
      chunks_.push_back(std::make_unique<char[]>(room_));
      free_ = chunks_.back().get();
    }
    char* key = free_;
    std::memcpy(key, token.data(), token.size());
    free_ += token.size();
    room_ -= token.size();
    return key;
  }

  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<char[]>> chunks_;
  char* free_ = nullptr;
  size_t room_ = 0;
  size_t used_ = 0;
};

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

class File {
 public:
  explicit File(const char* path) : path_(path), descriptor_(open(path, O_RDONLY)) {
    struct stat status;
    if (descriptor_ < 0 || fstat(descriptor_, &status)) fail(path_);
    size_ = size_t(status.st_size);
  }
  File(File&& other) noexcept
      : path_(std::move(other.path_)),
        descriptor_(std::exchange(other.descriptor_, -1)),
        size_(other.size_) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  size_t size() const { return size_; }

  // Appends so many bytes, or fewer at the end of the file, and says whether they were there.
  bool read(size_t offset, size_t wanted, std::string& bytes) const {
    const size_t before = bytes.size();
    bytes.resize(before + wanted);
    size_t filled = 0;
    while (filled < wanted) {
      const ssize_t got =
          pread(descriptor_, bytes.data() + before + filled, wanted - filled, offset + filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(path_);
      if (!got) break;
      filled += size_t(got);
    }
    bytes.resize(before + filled);
    return filled == wanted;
  }

 private:
  std::string path_;
  int descriptor_;
  size_t size_ = 0;
};

// The part of a file in which the lines of a block begin.
struct Block {
  const File* file;
  size_t start;

  // Reads the lines that begin in the block, the last of them whole.
  std::string_view read(std::string& bytes) const {
    const size_t ahead = start > 0;  // this byte says whether a line begins with the block
    const size_t first = start - ahead;
    bytes.clear();
    bool last = !file->read(first, kBlock + ahead, bytes);
    size_t begin = 0;
    if (ahead) {
      const size_t end = bytes.find('\n');
      if (end == std::string::npos || end + 1 >= bytes.size()) return {};
      begin = end + 1;
    }
    while (!last && bytes.back() != '\n') {
      const size_t filled = bytes.size();
      last = !file->read(first + filled, kRest, bytes);
      const size_t end = bytes.find('\n', filled);
      if (end != std::string::npos) bytes.resize(end + 1);
    }
    return std::string_view(bytes).substr(begin);
  }
};

// What cppjieba's own segmenters end a sentence at.
bool is_separator(cppjieba::Rune rune) {
  return rune == ' ' || rune == '\t' || rune == '\n' || rune == 0xFF0C || rune == 0x3002;
}

// Cuts documents and counts their tokens, which are views of the text: no strings are made.
class Counter {
 public:
  explicit Counter(const cppjieba::MixSegment& segment) : segment_(segment) {}

  void add(std::string_view line) {
    if (!cppjieba::DecodeUTF8RunesInString(line.data(), line.size(), runes_)) {
      throw std::runtime_error("expected UTF-8");
    }
    ranges_.clear();
    auto begin = runes_.cbegin();
    for (auto at = begin; at != runes_.cend(); ++at) {
      if (!is_separator(at->rune)) continue;
      cut(begin, at);
      cut(at, at + 1);
      begin = at + 1;
    }
    cut(begin, runes_.cend());
    for (const cppjieba::WordRange& range : ranges_) {
      const size_t end = range.right->offset + range.right->len;
      table.add(line.substr(range.left->offset, end - range.left->offset), 1);
    }
  }

  Table table;

 private:
  using Rune = cppjieba::RuneStrArray::const_iterator;

  void cut(Rune begin, Rune end) {
    if (begin != end) segment_.Cut(begin, end, ranges_, true);
  }

  const cppjieba::MixSegment& segment_;
  cppjieba::RuneStrArray runes_;
  std::vector<cppjieba::WordRange> ranges_;
};

// Counts the blocks that `next` hands out until there are none left.
void count(Counter& counter, const std::vector<Block>& blocks, std::atomic<size_t>& next) {
  std::string bytes;
  for (size_t number; (number = next.fetch_add(1)) < blocks.size();) {
    std::string_view text = blocks[number].read(bytes);
    while (!text.empty()) {
      const size_t end = text.find('\n');
      const bool whole = end != std::string_view::npos;
      const bool returns = whole && end > 0 && text[end - 1] == '\r';
      counter.add(text.substr(0, returns ? end - 1 : end));
      text.remove_prefix(whole ? end + 1 : text.size());
    }
  }
}

Table count_files(const cppjieba::MixSegment& segment, size_t threads, char** begin, char** end) {
  const std::vector<File> files(begin, end);
  std::vector<Block> blocks;
  for (const File& file : files) {
    for (size_t start = 0; start < file.size(); start += kBlock) blocks.push_back({&file, start});
  }
  std::atomic<size_t> next{0};
  std::vector<Table> tables(threads);
  std::vector<std::exception_ptr> faults(threads);
  std::vector<std::thread> workers;
  for (size_t i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] {
      try {
        Counter counter(segment);
        count(counter, blocks, next);
        tables[i] = std::move(counter.table);
      } catch (...) {
        faults[i] = std::current_exception();
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  for (const std::exception_ptr& fault : faults) {
    if (fault) std::rethrow_exception(fault);
  }
  size_t largest = 0;
  for (size_t i = 1; i < threads; ++i) {
    if (tables[i].size() > tables[largest].size()) largest = i;
  }
  for (size_t i = 0; i < threads; ++i) {
    if (i != largest) tables[largest].merge(tables[i]);
  }
  return std::move(tables[largest]);
}

int run(int argc, char** argv) {
  if (argc < 6) throw std::runtime_error("expected THREADS DICTIONARY MODEL OUTPUT FILE...");
  const cppjieba::DictTrie dictionary(argv[2]);
  const cppjieba::HMMModel model(argv[3]);
  const cppjieba::MixSegment segment(&dictionary, &model);
  const auto began = std::chrono::steady_clock::now();
  const Table table = count_files(segment, std::stoul(argv[1]), argv + 5, argv + argc);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
  std::printf("%.6f\n", seconds.count());
  std::FILE* file = std::fopen(argv[4], "wb");
  if (!file) fail(argv[4]);
  table.write(file);
  if (std::fclose(file)) fail(argv[4]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
