// Package clusters runs cqrsync on clusters of brokers and databases, of real nodes on several
// ports of one host, of which some are killed, come back, and are cut off.
//
//	CQRSYNC_TEST_CLUSTERS=1 go test -v ./tests/clusters # the pauses are printed
//
// It takes two minutes, and a machine on which nodes that are well answer in time: so it is to be
// asked for.
package clusters
