//go:build unix && !race

package main

const mostMegabytes = 120.0
