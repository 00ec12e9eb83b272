#include "masks/pool_loops.h"

namespace sparsewright {

const PoolLoops& pool_loops(Portable) { return all_pool_loops; }

}  // namespace sparsewright
