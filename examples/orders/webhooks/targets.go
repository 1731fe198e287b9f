package webhooks

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Targets says where subscribers may be. Without it a subscription would let anybody make this
// service call what only this service can reach: databases, metadata of the cloud, other services
// on loopback.
type Targets struct {
	// Allow are the networks that may be called although they are not public, such as 10.1.0.0/16.
	Allow []netip.Prefix
	// Ports are the ports that may be called. Default: 80 and 443.
	Ports []int
}

// notPublic are the networks of IANA's special-purpose registries, and multicast.
var notPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/3",
	// These hold IPv4 addresses (2002::), or are for documentation, tests and routing only.
	"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)

// publicIPv6 is all that is given out as public so far.
var publicIPv6 = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// allows says whether an address may be called.
func (t Targets) allows(addr netip.Addr) bool {
	addr = addr.Unmap() // ::ffff:127.0.0.1 is 127.0.0.1
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	within := func(p netip.Prefix) bool { return p.Contains(addr) }
	if slices.ContainsFunc(t.Allow, within) {
		return true
	}
	return (addr.Is4() || publicIPv6.Contains(addr)) && !slices.ContainsFunc(notPublic, within)
}

// control is asked by the dialer for every address that it is about to call. Only then is it known
// where a name leads: it may have led elsewhere when the subscription was made.
func (t Targets) control(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address: %w", address, err)
	}
	if !t.allows(target.Addr()) {
		return fmt.Errorf("%s is not public and not among the networks that are allowed", target.Addr())
	}
	if !slices.Contains(t.Ports, int(target.Port())) {
		return fmt.Errorf("port %d is not among the ports that are allowed", target.Port())
	}
	return nil
}

const maxURL = 2000

// problem says what is wrong with a subscriber's URL, or nothing. It looks no name up: that would
// tell whoever asks which names there are.
func (t Targets) problem(text string) string {
	u, err := url.Parse(text)
	switch {
	case len(text) > maxURL:
		return fmt.Sprintf("url: %d bytes, want at most %d", len(text), maxURL)
	case err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return "url: not one like https://host/path"
	case u.User != nil:
		return "url: it holds a user or a password; each delivery is signed, which is safer"
	case strings.Contains(text, "#"):
		return "url: what follows # never leaves this service, leave it out"
	}
	port, err := strconv.Atoi(portOf(u))
	if err != nil || !slices.Contains(t.Ports, port) {
		return fmt.Sprintf("url: port %s, want one of %s", portOf(u), joined(t.Ports))
	}
	return t.hostProblem(u.Hostname())
}

// hostName is what a name server may be asked for. A last label of digits, or of 0x and digits, is
// how some resolvers write an address: 2130706433, 127.1, 0x7f.1.
var (
	hostName   = regexp.MustCompile(`^[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?$`)
	numberLast = regexp.MustCompile(`(^|\.)([0-9]+|0[xX][0-9a-fA-F]*)\.?$`)
	localhost  = regexp.MustCompile(`(?i)(^|\.)localhost\.?$`)
)

func (t Targets) hostProblem(host string) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && !t.allows(addr),
		localhost.MatchString(host) && !t.allows(netip.AddrFrom4([4]byte{127, 0, 0, 1})):
		return fmt.Sprintf("url: %s is not a public address", host)
	case err == nil:
		return ""
	case len(host) > 253 || !hostName.MatchString(host):
		return "url: the host is not a name (of ASCII letters, xn--… for others) and not an address"
	case numberLast.MatchString(host):
		return "url: the host is not a name, and as an address it would be written like 192.0.2.1"
	default:
		return ""
	}
}

func portOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

func joined(ports []int) string {
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = strconv.Itoa(port)
	}
	return strings.Join(texts, ", ")
}
