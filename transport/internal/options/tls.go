package options

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
)

// TLSNames are the parameters that TLS reads.
var TLSNames = []string{"cacertfile", "certfile", "keyfile"}

// TLS reads what a connection with TLS to a host needs.
func (o *Options) TLS(host string) *tls.Config {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if ca := o.File("cacertfile"); ca != "" {
		c.RootCAs = x509.NewCertPool()
		content, err := os.ReadFile(ca) //nolint:gosec // the operator names it
		if err == nil && !c.RootCAs.AppendCertsFromPEM(content) {
			o.Errs = append(o.Errs, errors.New("URL parameter cacertfile: the file has no certificate"))
		}
	}
	certificate, key := o.File("certfile"), o.File("keyfile")
	switch {
	case certificate != "" && key != "":
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			o.Errs = append(o.Errs, errors.New("URL parameters certfile and keyfile: want a "+
				"certificate and its key, in PEM"))
		}
		c.Certificates = []tls.Certificate{pair}
	case certificate != "" || key != "":
		o.Errs = append(o.Errs, errors.New("URL parameters certfile and keyfile: want both"))
	}
	return c
}

// NoTLS refuses the parameters of TLS in a URL without it; with is the scheme that has it.
func (o *Options) NoTLS(with string) {
	for _, name := range TLSNames {
		if o.Text(name) != "" {
			o.Errs = append(o.Errs, errors.New("URL parameters cacertfile, certfile and keyfile are "+
				"for "+with))
			return
		}
	}
}
