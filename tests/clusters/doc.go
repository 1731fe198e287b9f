// Package clusters runs cqrsync on clusters of brokers and databases, of real nodes on several
// ports of one host, of which some are killed, come back, and are cut off.
//
//	go test -v ./tests/clusters        # the pauses are printed
package clusters
