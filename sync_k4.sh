mkdir -p src/sparsewright/kernels/csrc/linear && rm -f src/sparsewright/kernels/csrc/linear/*
cp ../k4/csrc/* src/sparsewright/kernels/csrc/linear/ && rm src/sparsewright/kernels/csrc/linear/module.cpp
