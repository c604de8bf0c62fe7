#define RC_BALL ball_baseline
#include "ball.inc"
