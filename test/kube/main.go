// Command kube is a real Kubernetes control plane for the tests: the upstream
// programs in one binary, chosen by the name it is called by.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	var cmd *cobra.Command
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		cmd = apiserver.NewAPIServerCommand()
	default:
		fmt.Fprintf(os.Stderr, "%s: call it by the name of a program: kube-apiserver\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(cmd))
}
