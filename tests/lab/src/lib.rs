//! Network-namespace lab and the tests that need real kernels
