package transports_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/natsserver"
	"github.com/cqrsync/cqrsync/transport"
)

// A user is known by the seed in a file, and nobody else is let in.
func TestNATSWithNkey(t *testing.T) {
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := user.PublicKey()
	require.NoError(t, err)
	s := natsserver.New(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	file := func(key nkeys.KeyPair) string {
		seed, err := key.Seed()
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "user.nk")
		require.NoError(t, os.WriteFile(path, seed, 0o600))
		return path
	}
	url := s.URL() + "?nkey=" + file(user)
	messages, err := natsSubscriber(t, url, "stats").SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	batch := outgoing("order", 3)
	accepted(t, natsPublisher(t, url).PublishBatch(t.Context(), batch), 3)
	require.Equal(t, ids(batch), acked(t, messages, 3))
	stranger, err := nkeys.CreateUser()
	require.NoError(t, err)
	for _, wrong := range []string{s.URL(), s.URL() + "?nkey=" + file(stranger)} {
		require.ErrorIs(t, natsPublisher(t, wrong).Probe(t.Context()), transport.ErrUnavailable)
	}
}

// A server that wants a client's certificate gets it, and lets in nobody without.
func TestNATSWithACertificateOfTheClient(t *testing.T) {
	certificate, key := selfSigned(t, t.TempDir())
	s := natsserver.New(t, func(o *server.Options) {
		config, err := server.GenTLSConfig(&server.TLSConfigOpts{
			CertFile: certificate, KeyFile: key, CaFile: certificate, Verify: true,
		})
		require.NoError(t, err)
		config.ClientAuth = tls.RequireAnyClientCert
		o.TLSConfig = config
	})
	url := s.URL() + "?cacertfile=" + certificate
	require.ErrorIs(t, natsPublisher(t, url).Probe(t.Context()), transport.ErrUnavailable)
	url += "&certfile=" + certificate + "&keyfile=" + key
	require.NoError(t, natsPublisher(t, url).Probe(t.Context()))
}
