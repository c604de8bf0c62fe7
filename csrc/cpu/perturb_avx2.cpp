#define RC_ISA avx2
#define RC_ISA_NAME "avx2"
#include "perturb.inc"
