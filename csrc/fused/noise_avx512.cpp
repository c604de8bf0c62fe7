#define RC_NOISE noise_avx512
#include "noise.inc"
