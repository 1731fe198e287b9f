package webhooks

import "net"

// WithResolver is the configuration with another resolver of names.
func (c Config) WithResolver(resolver *net.Resolver) Config {
	c.resolver = resolver
	return c
}

// Problem is what is wrong with a subscriber's URL.
func (t Targets) Problem(url string) string { return t.problem(url) }

// AllowsAddress says whether the dialer may call an address.
func (t Targets) AllowsAddress(address string) error { return t.control("tcp", address, nil) }
