// Command prepare makes the machine ready for the tests on real hosts: Debian's
// tools, the base image, kine and kube-apiserver. What is there is kept. It exits
// with 0 when all is ready and with 3 when this machine cannot have such hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/test/hosts"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	// One waits for the network and the disk most of the time, the other for the processor.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return hosts.Ensure(gctx, os.Stdout) })
	g.Go(func() error { _, err := hosts.BuildKube(gctx, os.Stdout); return err })
	err := g.Wait()
	var skip *hosts.SkipError
	switch {
	case errors.As(err, &skip):
		fmt.Println("SKIP:", skip.Reason)
		return 3
	case err != nil:
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 1
	}
	fmt.Printf("hosts and Kubernetes are ready (%.1f s)\n", time.Since(start).Seconds())
	return 0
}
