#define RC_ISA baseline
#define RC_ISA_NAME "baseline"
#include "perturb.inc"
