// Finds the k-th largest key as threshold.h does: a sample brackets it, and one pass over all
// entries counts the keys above the bracket and gathers the keys inside. If the bracket misses the
// key or holds too many keys, the next pass has a bracket of the keys that are left.
#include "masks/joint.h"

#include <atomic>
#include <stdexcept>

#include "masks/threshold.h"

namespace sparsewright {
namespace {

constexpr int64_t piece_length = 1 << 16;  // entries that a thread takes at a time

template <class T>
struct Piece {  // of a tensor
    size_t tensor;
    const T* score;
    const uint8_t* among;
    int64_t n;
    Scan<T> found;
    std::vector<T> keys;  // the keys inside the bracket
};

template <class T>
class Joint {
  public:
    Joint(const std::vector<JointTensor>& tensors, bool magnitude, T inf, int threads, Isa isa)
        : magnitude(magnitude), inf(inf), threads(threads), isa(isa), rooms(threads) {
        if (magnitude) range.lo = 0;
        for (size_t index = 0; index < tensors.size(); ++index) {
            const JointTensor& of = tensors[index];
            for (int64_t i = 0; i < of.n; i += piece_length) {
                const uint8_t* among = of.among ? of.among + i : nullptr;
                const int64_t n = std::min(piece_length, of.n - i);
                pieces.push_back({index, static_cast<const T*>(of.score) + i, among, n, {}, {}});
            }
            entries += of.n;
        }
    }

    bool count(int64_t num, std::vector<int64_t>& counts) {
        left = count_candidates();
        num = std::min(num, left);
        take_sample();
        for (;;) {
            const auto is_outside = [&](T key) { return key < range.lo || key > range.hi; };
            sample.erase(std::remove_if(sample.begin(), sample.end(), is_outside), sample.end());
            const Bracket<T> sampled =
                bracket_of(sample, left ? double(num - above) / double(left) : 0);
            scan(sampled.without_shared_ends());
            if (found.has_nan) return false;
            if (num == 0) return true;
            if (is_above(num) && sampled.hi_shared)
                scan({sampled.hi, sampled.hi, false, false});
            else if (is_below(num) && sampled.lo_shared)
                scan({sampled.lo, sampled.lo, false, false});
            if (!is_above(num) && !is_below(num) && (bracket.is_point() || is_complete)) {
                add_counts(num - found.above, counts);
                return true;
            }
            narrow(num);
        }
    }

  private:
    T key(T score) const { return magnitude ? key_of<true>(score) : key_of<false>(score); }
    bool is_above(int64_t num) const { return num <= found.above; }
    bool is_below(int64_t num) const { return num > found.above + found.inside; }

    int64_t count_candidates() const {
        std::atomic<int64_t> total{0};
        parallel_for(threads, int64_t(pieces.size()), [&](int64_t p, int) {
            int64_t n = pieces[p].n;
            if (pieces[p].among) mask_loops(isa).count_rows(pieces[p].among, 1, n, &n);
            total += n;
        });
        return total;
    }

    // Samples one position per stratum, jittered so that no period escapes the sample.
    void take_sample() {
        const double wanted = std::cbrt(double(left) * double(left));
        const int64_t positions = std::min(
            entries, int64_t(wanted * double(entries) / double(std::max<int64_t>(left, 1))));
        const double stride = double(entries) / double(positions);
        auto piece = pieces.begin();
        int64_t start = 0;
        for (int64_t j = 0; j < positions; ++j) {
            const uint32_t hash = static_cast<uint32_t>(j) * 2654435761u;
            const int64_t at = int64_t((double(j) + hash * 0x1p-32) * stride);
            for (; piece != pieces.end() && at - start >= piece->n; ++piece) start += piece->n;
            if (piece == pieces.end()) return;
            const int64_t i = at - start;
            if (!piece->among || piece->among[i]) sample.push_back(key(piece->score[i]));
        }
    }

    // Sets `bracket` to the part within the range, scans all pieces, and gathers the keys inside
    // unless there are too many. If the bracket is the whole range, it gathers all of them.
    void scan(const Bracket<T>& wanted) {
        bracket.lo = std::max(wanted.lo, range.lo);
        bracket.hi = std::min(wanted.hi, range.hi);
        const bool is_range = bracket.lo == range.lo && bracket.hi == range.hi;
        const int64_t most = is_range ? entries : 8192 + entries / 4;
        std::atomic<int64_t> inside{0};
        parallel_for(threads, int64_t(pieces.size()), [&](int64_t p, int thread) {
            Piece<T>& piece = pieces[p];
            std::vector<T>& room = rooms[thread];
            room.resize(piece_length);
            const bool gather = !bracket.is_point() && inside <= most;
            piece.found = mask_loops(isa).template select<T>(magnitude).scan(
                piece.score, piece.among, piece.n, bracket.lo, bracket.hi, inf,
                gather ? room.data() : nullptr);
            inside += piece.found.inside;
            piece.keys.assign(room.begin(), room.begin() + (gather ? piece.found.inside : 0));
        });
        is_complete = inside <= most;
        found = {};
        for (const auto& piece : pieces) {
            found.above += piece.found.above;
            found.inside += piece.found.inside;
            found.has_nan |= piece.found.has_nan;
        }
    }

    // Narrows the range to the keys above, inside or below the bracket.
    void narrow(int64_t num) {
        const int64_t through = found.above + found.inside;
        if (is_above(num)) {
            range.lo = static_cast<T>(bracket.hi + 1);
            left = found.above - above;
        } else if (is_below(num)) {
            range.hi = static_cast<T>(bracket.lo - 1);
            left -= through - above;
            above = through;
        } else {
            range = bracket;
            left = found.inside;
            above = found.above;
        }
    }

    // Adds each piece's entries above the `rank`-th largest key in the bracket, and its ties.
    void add_counts(int64_t rank, std::vector<int64_t>& counts) {
        Threshold<T> threshold;
        threshold.key = bracket.lo;
        threshold.ties = rank;
        if (!bracket.is_point()) {
            std::vector<T> keys;
            for (const auto& piece : pieces)
                keys.insert(keys.end(), piece.keys.begin(), piece.keys.end());
            threshold = threshold_of(keys, rank);
        }
        for (const auto& piece : pieces) {
            int64_t more = 0, equal = bracket.is_point() ? piece.found.inside : 0;
            for (T key : piece.keys) {
                more += key > threshold.key;
                equal += key == threshold.key;
            }
            const int64_t ties = std::min(threshold.ties, equal);
            counts[piece.tensor] += piece.found.above + more + ties;
            threshold.ties -= ties;
        }
    }

    const bool magnitude;
    const T inf;
    const int threads;
    const Isa isa;
    std::vector<Piece<T>> pieces;
    std::vector<std::vector<T>> rooms;  // of each thread
    int64_t entries = 0;
    std::vector<T> sample;        // of the keys in the range
    Bracket<T> range, bracket;    // the k-th key is in the range
    int64_t above = 0, left = 0;  // candidates above the range, and in it
    Scan<T> found;                // with the bracket, in all pieces
    bool is_complete = false;     // all keys inside the bracket were gathered
};

}  // namespace

bool count_largest(const std::vector<JointTensor>& tensors, Dtype dtype, int64_t num,
                   bool magnitude, std::vector<int64_t>& counts, int threads, Isa isa) {
    counts.assign(tensors.size(), 0);
    switch (dtype) {
        case Dtype::float16:
            return Joint<int16_t>(tensors, magnitude, 0x7c00, threads, isa).count(num, counts);
        case Dtype::bfloat16:
            return Joint<int16_t>(tensors, magnitude, 0x7f80, threads, isa).count(num, counts);
        case Dtype::float32:
            return Joint<int32_t>(tensors, magnitude, 0x7f800000, threads, isa).count(num, counts);
        case Dtype::float64:
            return Joint<int64_t>(tensors, magnitude, 0x7ff0000000000000, threads, isa)
                .count(num, counts);
        default:
            throw std::invalid_argument("score is not floating point");
    }
}

}  // namespace sparsewright
