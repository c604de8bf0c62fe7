#define RC_NOISE noise_baseline
#include "noise.inc"
