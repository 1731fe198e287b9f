//go:build linux || darwin

package sqlite

import "syscall"

// disk returns the bytes of the file system of a folder: those that are free, and all.
func disk(folder string) (free, total uint64, known bool) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(folder, &stat); err != nil {
		return 0, 0, false
	}
	size := uint64(stat.Bsize) //nolint:gosec // not negative
	return stat.Bavail * size, stat.Blocks * size, true
}
