// All loops of one instruction set as a table. One file per instruction set includes this header.
#pragma once

#include "masks/count_loops.h"
#include "masks/loops.h"
#include "masks/n_m_loop.h"
#include "masks/prune_loop.h"
#include "masks/select_loops.h"
#include "masks/short_rows.h"
#include "masks/tile_loop.h"
#include "masks/uniform_loop.h"

namespace sparsewright {
namespace {

template <class T>
constexpr SelectLoops<T> signed_loops = {scan<T, false>, mark<T, false>, short_rows<T, false>};
template <class T>
constexpr SelectLoops<T> magnitude_loops = {scan<T, true>, mark<T, true>, short_rows<T, true>};

constexpr MaskLoops make_mask_loops(PruneLoop prune16, PruneLoop prune32, PruneLoop prune64) {
    return {prune16,
            prune32,
            prune64,
            {signed_loops<int16_t>, magnitude_loops<int16_t>},
            {signed_loops<int32_t>, magnitude_loops<int32_t>},
            {signed_loops<int64_t>, magnitude_loops<int64_t>},
            count_rows,
            count_changes,
            uniform_loop,
            n_m_loop<int16_t>,
            n_m_loop<int32_t>,
            n_m_loop<int64_t>,
            tile_loop<Float16>,
            tile_loop<BFloat16>,
            tile_loop<Float32>,
            tile_loop<Float64>};
}

}  // namespace
}  // namespace sparsewright
