//go:build unix && race

package main

// mostMegabytes is more than without the race detector, which keeps notes of the memory in use.
const mostMegabytes = 240.0
