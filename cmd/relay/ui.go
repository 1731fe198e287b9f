package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/dashboard"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/monitor"
)

var (
	uiSetting       = setting{"--ui", "CQRSYNC_UI"}
	uiTokenSetting  = setting{"--ui-token-file", tokenVariable}
	uiHeaderSetting = setting{"--ui-user-header", "CQRSYNC_UI_USER_HEADER"}
)

// tokenVariable holds the token itself: a flag would show it to whoever lists processes.
const tokenVariable = "CQRSYNC_UI_TOKEN"

// uiFlags are those of the dashboard.
func (o *options) uiFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "ui", Sources: cli.EnvVars("CQRSYNC_UI"), Destination: &o.ui,
			Usage: "serve the dashboard on HOST:PORT, or on PORT of the loopback interface, as " +
				"127.0.0.1:9465; nothing by default",
		},
		&cli.StringFlag{
			Name: "ui-token-file", Destination: &o.uiTokenFile,
			Usage: "the `FILE` with the token that visitors of the dashboard give, or the token itself in " +
				tokenVariable + "; beyond the loopback interface it or --ui-user-header is needed",
		},
		&cli.StringFlag{
			Name: "ui-user-header", Sources: cli.EnvVars("CQRSYNC_UI_USER_HEADER"),
			Destination: &o.uiUserHeader,
			Usage: "the header in which a proxy names the user of the dashboard; whoever reaches it " +
				"past the proxy may write that, too",
		},
		&cli.BoolFlag{
			Name: "ui-actions", Sources: cli.EnvVars("CQRSYNC_UI_ACTIONS"), Destination: &o.uiActions,
			Usage: "let visitors of the dashboard retry, purge, verify, backfill and forget",
		},
	}
}

// uiToken is what visitors have to give, empty for nothing.
func (o *options) uiToken() (string, error) {
	token := os.Getenv(tokenVariable)
	if o.uiTokenFile == "" {
		return token, nil
	}
	text, err := os.ReadFile(o.uiTokenFile)
	if err != nil {
		return "", uiTokenSetting.wrong(err)
	}
	if token = strings.TrimSpace(string(text)); token == "" {
		return "", uiTokenSetting.wrong(errors.New("the file is empty, want the token in it"))
	}
	return token, nil
}

// listenUI opens the address of --ui, nil if there is none; close closes it. Beyond the loopback
// interface it asks for a way to know who looks.
func (o *options) listenUI(ctx context.Context) (net.Listener, error) {
	if o.ui == "" {
		var errs []error
		for s, set := range map[setting]bool{
			uiTokenSetting: o.uiTokenFile != "", uiHeaderSetting: o.uiUserHeader != "",
			{"--ui-actions", "CQRSYNC_UI_ACTIONS"}: o.uiActions,
		} {
			if set {
				errs = append(errs, s.wrong(errors.New("set without --ui, which says where the dashboard is")))
			}
		}
		return nil, errors.Join(errs...)
	}
	listener, err := monitor.Listen(ctx, o.ui)
	if err != nil {
		return nil, uiSetting.wrong(err)
	}
	o.closers = append(o.closers, closeOnce{listener})
	token, err := o.uiToken()
	if err != nil {
		return nil, err
	}
	at, is := listener.Addr().(*net.TCPAddr)
	if is && !at.IP.IsLoopback() && token == "" && o.uiUserHeader == "" {
		return nil, uiSetting.wrong(fmt.Errorf("%s is open to the network: set %s or "+
			"--ui-token-file, or --ui-user-header behind a proxy that knows its users; or name "+
			"127.0.0.1", at, tokenVariable))
	}
	return listener, nil
}

// dashboard serves the dashboard on a listener, which may be nil.
// Should that fail the relay goes on.
func (o *options) dashboard(
	ui net.Listener, tables *admin.Tables, rel *relay.Relay, log *slog.Logger,
) (func(context.Context), error) {
	if ui == nil {
		return func(context.Context) {}, nil
	}
	token, err := o.uiToken()
	if err != nil {
		return nil, err
	}
	config := dashboard.Config{
		Tables: tables, Relay: rel, Token: token, UserHeader: o.uiUserHeader, Logger: log,
		Actions: o.actions(), Diagnosis: o.diagnosis,
	}
	page, err := dashboard.Handler(config)
	if err != nil {
		return nil, exit.Wrong(uiSetting.wrong(err))
	}
	return func(ctx context.Context) {
		log.Info("dashboard", "address", "http://"+ui.Addr().String()+"/", "who", whoMayLook(config),
			"actions", o.uiActions)
		var sampling sync.WaitGroup
		sampling.Go(func() { _ = page.Run(ctx) }) // it ends with ctx, and never fails
		if err := serveUI(ctx, ui, page); err != nil {
			log.Error("the dashboard is gone, the relay goes on", "error", err)
		}
		sampling.Wait()
	}, nil
}

// actions are what visitors may do, nil for nothing.
func (o *options) actions() *dashboard.Actions {
	if !o.uiActions {
		return nil
	}
	a := &dashboard.Actions{}
	if answerer := o.answerer; answerer != nil {
		a.Resync, a.RetryAt = answerer.SendStates, answerer.RetryDeadLetters
		a.PurgeAt = answerer.PurgeDeadLetters
		a.Backfill = func(ctx context.Context, queue, model string) error {
			return answerer.OrderBackfill(ctx, converge.Backfill{Queue: queue, Model: model})
		}
	}
	return a
}

func whoMayLook(c dashboard.Config) string {
	switch {
	case c.Token != "":
		return "who gives the token"
	case c.UserHeader != "":
		return "whom the proxy names in " + c.UserHeader
	default:
		return "who sits at this machine"
	}
}

// serveUI answers until ctx ends.
func serveUI(ctx context.Context, listener net.Listener, page http.Handler) error {
	server := &http.Server{
		Handler: page, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		// what keeps pages fresh ends with ctx
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close() // whoever still waits for an answer gets none
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the dashboard on %s: %w", listener.Addr(), err)
}
