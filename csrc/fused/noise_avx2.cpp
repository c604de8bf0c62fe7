#define RC_NOISE noise_avx2
#include "noise.inc"
