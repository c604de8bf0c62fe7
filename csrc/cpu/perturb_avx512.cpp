#define RC_ISA avx512
#define RC_ISA_NAME "avx512"
#include "perturb.inc"
