package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"

	proxyproto "github.com/pires/go-proxyproto"
	"golang.org/x/sync/errgroup"
)

type addresses []string

func (a *addresses) String() string { return fmt.Sprint(*a) }

func (a *addresses) Set(value string) error {
	*a = append(*a, value)
	return nil
}

func main() {
	var listen, proxied addresses
	name := flag.String("name", "", "what this backend calls itself")
	health := flag.String("health", "", "address and port that answers /healthz")
	unhealthy := flag.String("unhealthy", "/run/unhealthy", "while this file exists /healthz says 503")
	flag.Var(&listen, "listen", "address and port of the service; may be repeated")
	flag.Var(&proxied, "proxied", "address and port of the service whose TCP connections begin with a PROXY protocol's header; may be repeated")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *name, listen, proxied, *health, *unhealthy); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		stop()
		os.Exit(1)
	}
}

// serve listens everywhere before it says "ready", so that whoever waits for the line can connect.
func serve(ctx context.Context, name string, listen, proxied addresses, health, unhealthy string) error {
	group, ctx := errgroup.WithContext(ctx)
	open := func(address string, handler http.Handler) error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		if slices.Contains(proxied, address) {
			listener = &proxyproto.Listener{Listener: listener, ConnPolicy: mustHaveHeader}
		}
		server := &http.Server{Handler: handler}
		context.AfterFunc(ctx, func() { _ = server.Close() })
		group.Go(func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serving %s: %w", address, err)
			}
			return nil
		})
		return nil
	}
	service := serviceMux(name)
	for _, address := range listen {
		if err := open(address, service); err != nil {
			return err
		}
		if err := answerDatagrams(ctx, group, name, address); err != nil {
			return err
		}
	}
	for _, address := range proxied {
		if err := open(address, service); err != nil {
			return err
		}
	}
	if health != "" {
		if err := open(health, healthMux(unhealthy)); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	return group.Wait()
}

// mustHaveHeader takes who connects and where to for what the header says, and refuses connections without one.
func mustHaveHeader(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
	return proxyproto.REQUIRE, nil
}

func serviceMux(name string) http.Handler {
	mux := http.NewServeMux()
	whoAmI := func(r *http.Request) string {
		return fmt.Sprintf("%s %s %s\n", name, r.RemoteAddr, r.Context().Value(http.LocalAddrContextKey))
	}
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, whoAmI(r)) // the client sees what it got
	})
	mux.HandleFunc("GET /echo", func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, whoAmI(r)); err != nil {
			return
		}
		_, _ = io.Copy(conn, buffered) // ends when the client does
	})
	return mux
}

func healthMux(unhealthy string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(unhealthy); err == nil {
			http.Error(w, "told to be unhealthy by "+unhealthy, http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}
