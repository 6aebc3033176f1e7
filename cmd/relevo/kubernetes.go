package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/kube"
)

func newKubernetesCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubernetes",
		Short: "What relevo needs in Kubernetes: an account that may read Services",
		Long: "What relevo needs in Kubernetes. The master's agent has the credentials of\n" +
			"candidate.control_plane.api and needs nothing; an account is for those who want it\n" +
			"to have less, and for hosts that write their conditions to their Nodes.",
	}
	cmd.AddCommand(newKubernetesRBACCommand(a), newKubernetesTokenCommand(a))
	return cmd
}

const kubeNamespace = "kube-system"

func newKubernetesRBACCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rbac",
		Short: "Print manifests: an account that may only read Services",
		Long: "Print manifests for `kubectl apply -f -`: a ServiceAccount relevo that may read\n" +
			"Services, EndpointSlices and Nodes and nothing else, and the Secret with its token.\n" +
			"With --conditions it may also write the status of Nodes, of those of --nodes alone\n" +
			"if they are given, and events.",
		Example: "  relevo kubernetes rbac | kubectl apply -f -\n  relevo kubernetes rbac --conditions --nodes n1,n2 | kubectl apply -f -",
		Args:    cobra.NoArgs,
	}
	r := kube.RBAC{}
	cmd.Flags().StringVarP(&r.Namespace, "namespace", "n", kubeNamespace, "of the ServiceAccount")
	cmd.Flags().BoolVar(&r.Conditions, "conditions", false, "may also write conditions of Nodes, and events")
	cmd.Flags().StringSliceVar(&r.Nodes, "nodes", nil, "Nodes whose conditions it may write; none given = all")
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := checkNamespace(r.Namespace); err != nil {
			return err
		}
		for _, n := range r.Nodes {
			if len(validation.IsDNS1123Subdomain(n)) > 0 {
				return fmt.Errorf("--nodes: %q can be no Node's name: see `kubectl get nodes`", n)
			}
		}
		if len(r.Nodes) > 0 && !r.Conditions {
			return errors.New("--nodes is for --conditions: reading Services is not bound to Nodes")
		}
		fmt.Fprint(a.stdout, kube.Manifests(r))
		return nil
	}
	return cmd
}

func checkNamespace(n string) error {
	if len(validation.IsDNS1123Label(n)) > 0 {
		return fmt.Errorf("--namespace: %q is no namespace: a-z, 0-9 and hyphens within are allowed", n)
	}
	return nil
}

func newKubernetesTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print the token of that account, on the master",
		Long: "Print the token of the account that `relevo kubernetes rbac` makes. It is asked for\n" +
			"at candidate.control_plane.api with the credentials there, so this works as root on\n" +
			"the host that is the master. The token lasts for ever unless --duration is given;\n" +
			"the agent reads its file again when it changes.",
		Example: "  relevo kubernetes token | ssh n4 'sudo install -m 600 /dev/stdin /etc/relevo/kubernetes.token'",
		Args:    cobra.NoArgs,
	}
	path := cmd.Flags().String("config", config.DefaultPath, "the configuration")
	namespace := cmd.Flags().StringP("namespace", "n", kubeNamespace, "of the ServiceAccount")
	lasts := cmd.Flags().Duration("duration", 0, "ask for a token that lasts so long, 10m at least; 0 = the one that lasts for ever")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkNamespace(*namespace); err != nil {
			return err
		}
		if *lasts != 0 && *lasts < 10*time.Minute {
			return fmt.Errorf("--duration: %v is too short: Kubernetes gives tokens of 10m at least", *lasts)
		}
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		if cfg.Candidate == nil {
			return errors.New("this host is no candidate, so it has no credentials to ask with: run this on the master, or use `kubectl create token relevo -n " + *namespace + "`")
		}
		api := cfg.Candidate.ControlPlane.API
		c, err := kube.New(kube.Config{URL: api.URL, CAFile: api.CAFile, TokenFile: api.TokenFile, ClientCertFile: api.ClientCertFile, ClientKeyFile: api.ClientKeyFile})
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
		defer cancel()
		var token string
		if *lasts == 0 {
			token, err = c.ReadToken(ctx, *namespace)
		} else {
			token, err = c.MakeToken(ctx, *namespace, *lasts)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, token)
		return nil
	}
	return cmd
}
