package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
)

// targets reads where subscribers may be. What this process itself offers them is allowed.
func (p *process) targets() (webhooks.Targets, error) {
	var t webhooks.Targets
	var errs []error
	for text := range strings.FieldsFuncSeq(p.webhooksAllow, isComma) {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf(
				"--webhooks-allow: %q is not a network, want one like 10.1.0.0/16", text))
			continue
		}
		t.Allow = append(t.Allow, network)
	}
	for text := range strings.FieldsFuncSeq(p.webhooksPorts, isComma) {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			errs = append(errs, fmt.Errorf("--webhooks-ports: %q is not a port, want 1 to 65535", text))
			continue
		}
		t.Ports = append(t.Ports, int(port))
	}
	if own, is := p.inboxAt.(*net.TCPAddr); is {
		addr := own.AddrPort().Addr().Unmap()
		t.Allow = append(t.Allow, netip.PrefixFrom(addr, addr.BitLen()))
		t.Ports = append(t.Ports, own.Port)
	}
	return t, errors.Join(errs...)
}

func isComma(r rune) bool { return r == ',' || r == ' ' }
