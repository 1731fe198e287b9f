package amqp

import "strings"

// splitHosts takes all hosts but the first out of a URL, as in amqp://user:password@a:5672,b:5672/.
func splitHosts(rawURL string) (first string, others []string) {
	before, place, after := cutPlace(rawURL)
	hosts := strings.Split(place, ",")
	return before + hosts[0] + after, hosts[1:]
}

// cutPlace returns the host, or hosts, of a URL whose user and password are escaped, and what
// stands around them.
func cutPlace(rawURL string) (before, place, after string) {
	begin := 0
	if i := strings.Index(rawURL, "://"); i >= 0 {
		begin = i + len("://")
	}
	end := len(rawURL)
	if i := strings.IndexAny(rawURL[begin:], "/?#"); i >= 0 {
		end = begin + i
	}
	begin += strings.LastIndex(rawURL[begin:end], "@") + 1
	return rawURL[:begin], rawURL[begin:end], rawURL[end:]
}

// uris are the URLs of all nodes.
func (c Config) uris() []string {
	own := c.Connection.AmqpURI
	before, _, after := cutPlace(own)
	all := []string{own}
	for _, host := range c.Hosts {
		all = append(all, before+host+after)
	}
	return all
}

func (c Config) validateURIs() error {
	for _, host := range c.Hosts {
		if host == "" || strings.ContainsAny(host, "/?#@,") {
			return errURL
		}
	}
	for _, uri := range c.uris() {
		if err := validateURI(uri); err != nil {
			return err
		}
	}
	return nil
}
