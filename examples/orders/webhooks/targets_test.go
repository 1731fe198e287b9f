package webhooks_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/examples/orders/internal/mastertest"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

var public = webhooks.Targets{Ports: []int{80, 443}}

func TestAURLMustLeadToAPublicPlace(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"https://example.com/orders?token=1":    "",
		"http://example.com":                    "",
		"https://example.com.:443/":             "",
		"https://8.8.8.8/":                      "",
		"https://[2606:4700::1111]/":            "",
		"HTTPS://EXAMPLE.com/":                  "",
		"":                                      "url: not one like https://host/path",
		"example.com":                           "url: not one like https://host/path",
		"ftp://example.com":                     "url: not one like https://host/path",
		"https://":                              "url: not one like https://host/path",
		"https:///path":                         "url: not one like https://host/path",
		"https://:443/":                         "url: not one like https://host/path",
		"https:example.com":                     "url: not one like https://host/path",
		"http://example.com:99999999/":          "url: port 99999999, want one of 80, 443",
		"http://exa mple.com/":                  "url: not one like https://host/path",
		"http://example.com\r\nX: y":            "url: not one like https://host/path",
		"https://ada:1234@example.com/":         "url: it holds a user or a password; each delivery is signed, which is safer",
		"https://ada@example.com/":              "url: it holds a user or a password; each delivery is signed, which is safer",
		"https://example.com/#top":              "url: what follows # never leaves this service, leave it out",
		"https://example.com:22/":               "url: port 22, want one of 80, 443",
		"https://example.com:0443x/":            "url: not one like https://host/path",
		"http://localhost/":                     "url: localhost is not a public address",
		"http://LOCALHOST./":                    "url: LOCALHOST. is not a public address",
		"http://a.localhost/":                   "url: a.localhost is not a public address",
		"http://127.0.0.1/":                     "url: 127.0.0.1 is not a public address",
		"http://127.9.9.9/":                     "url: 127.9.9.9 is not a public address",
		"http://[::1]/":                         "url: ::1 is not a public address",
		"http://[::ffff:10.0.0.1]/":             "url: ::ffff:10.0.0.1 is not a public address",
		"http://[fe80::1%25eth0]/":              "url: fe80::1%eth0 is not a public address",
		"http://169.254.169.254/latest":         "url: 169.254.169.254 is not a public address",
		"http://0.0.0.0/":                       "url: 0.0.0.0 is not a public address",
		"http://2130706433/":                    "url: the host is not a name, and as an address it would be written like 192.0.2.1",
		"http://127.1/":                         "url: the host is not a name, and as an address it would be written like 192.0.2.1",
		"http://0x7f.1/":                        "url: the host is not a name, and as an address it would be written like 192.0.2.1",
		"http://0177.0.0.0x1/":                  "url: the host is not a name, and as an address it would be written like 192.0.2.1",
		"http://a..b/":                          "url: the host is not a name (of ASCII letters, xn--… for others) and not an address",
		"http://bücher.example/":                "url: the host is not a name (of ASCII letters, xn--… for others) and not an address",
		"http://ⓛocalhost/":                     "url: the host is not a name (of ASCII letters, xn--… for others) and not an address",
		"http://" + strings.Repeat("a.", 127):   "url: the host is not a name (of ASCII letters, xn--… for others) and not an address",
		"http://a/" + strings.Repeat("b", 2000): "url: 2009 bytes, want at most 2000",
	} {
		require.Equal(t, want, public.Problem(url), url)
	}
}

func TestAddressesAreCheckedWhenTheyAreCalled(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"8.8.8.8:443", "[2606:4700::1111]:80", "172.32.0.1:80", "100.128.0.1:80"} {
		require.NoError(t, public.AllowsAddress(address), address)
	}
	for _, address := range []string{
		"127.0.0.1:80", "10.1.2.3:80", "172.31.255.255:80", "192.168.1.1:80", "169.254.169.254:80", "100.64.0.1:80",
		"0.0.0.0:80", "255.255.255.255:80", "224.0.0.1:80", "192.0.2.1:80", "198.18.0.1:80", "[::]:80", "[::1]:80",
		"[::ffff:127.0.0.1]:80", "[::ffff:169.254.169.254]:80", "[fe80::1]:80", "[fe80::1%eth0]:80", "[fc00::1]:80",
		"[fec0::1]:80", "[ff02::1]:80", "[64:ff9b::7f00:1]:80", "[2002:7f00:1::]:80", "[2001::1]:80", "[2001:db8::1]:80",
		"8.8.8.8:22", "[2606:4700::1111]:6379", "8.8.8.8", "example.com:80", "",
	} {
		require.Error(t, public.AllowsAddress(address), address)
	}
	inside := webhooks.Targets{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Ports: []int{8080}}
	require.NoError(t, inside.AllowsAddress("10.1.2.3:8080"))
	require.NoError(t, inside.AllowsAddress("[::ffff:10.1.2.3]:8080"))
	require.Error(t, inside.AllowsAddress("10.2.0.1:8080"))
	require.Error(t, inside.AllowsAddress("10.1.2.3:5432"))
	require.Error(t, inside.AllowsAddress("127.0.0.1:8080"))
	require.Empty(t, inside.Problem("http://10.1.2.3:8080/"))
	require.NotEmpty(t, inside.Problem("http://localhost:8080/"))
}

// Whatever text is taken for a URL, an address in it is a public one.
func FuzzURL(f *testing.F) {
	for _, url := range []string{"http://127.0.0.1", "https://[::1]:443/", "http://a@b/", "http://[::ffff:1.2.3.4]/"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if public.Problem(text) != "" {
			return
		}
		_, rest, _ := strings.Cut(text, "://")
		host, _, _ := strings.Cut(rest, "/")
		host, _, _ = strings.Cut(host, "?")
		if addr, err := netip.ParseAddrPort(host); err == nil {
			require.NoError(t, public.AllowsAddress(addr.String()))
		}
		if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
			require.NoError(t, public.AllowsAddress(netip.AddrPortFrom(addr, 80).String()))
		}
		require.NotContains(t, host, "@")
	})
}

// A name leads to a public address when it is looked at, and to loopback when it is called.
func TestANameThatLeadsToLoopbackIsNotCalled(t *testing.T) {
	t.Parallel()
	subscriber := listen(t)
	port := subscriber.url[strings.LastIndex(subscriber.url, ":"):]
	narrow := config().WithResolver(loopbackResolver(t))
	narrow.Targets.Allow = nil
	service, api := serveWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), narrow)
	api.subscribe("http://rebinding.example" + port)
	deliver(t, service)
	mastertest.Start(t, service).Save(1, order(1, "new"))
	api.eventually("/deliveries?order=1", func(history []delivery) bool {
		return history[0].State == "failed" && len(history[0].Attempts) == attempts &&
			history[0].Attempts[0].Error == "the subscriber did not answer"
	})
	require.Empty(t, subscriber.heard)
}

func TestANameMayLeadToWhatIsAllowed(t *testing.T) {
	t.Parallel()
	subscriber := listen(t)
	port := subscriber.url[strings.LastIndex(subscriber.url, ":"):]
	service, api := serveWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), config().WithResolver(loopbackResolver(t)))
	api.subscribe("http://inside.example" + port)
	deliver(t, service)
	mastertest.Start(t, service).Save(1, order(1, "new"))
	require.Equal(t, "created new 0", subscriber.next(t))
}

// loopbackResolver asks a name server on loopback that knows one address, 127.0.0.1.
func loopbackResolver(t *testing.T) *net.Resolver {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		query := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(query)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(dnsAnswer(query[:n]), from)
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-ended
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		return dialer.DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// dnsAnswer answers a query for an A record with 127.0.0.1, and any other with no record.
func dnsAnswer(query []byte) []byte {
	const header = 12
	end := header
	for query[end] != 0 { // the labels of the name
		end += int(query[end]) + 1
	}
	end += 5 // the zero, the type, the class
	answer := append([]byte{}, query[:end]...)
	answer[2], answer[3] = 0x81, 0x80                // a response, without an error
	copy(answer[6:header], []byte{0, 0, 0, 0, 0, 0}) // no records
	if kind := query[end-3]; kind == 1 {
		answer[7] = 1
		answer = append(answer, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1)
	}
	return answer
}
