#define RC_FUSED fused_avx2
#define RC_FUSED_NAME "avx2"
#define RC_NOISE noise_avx2
#include "fused.inc"
