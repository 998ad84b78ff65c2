package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/freshwire/freshwire/hub/auth"
	"github.com/spf13/cobra"
)

func (c *cli) token() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "make the tokens that a hub with keys asks for, and look into them",
		Long: `A hub that is started with --jwks, --issuer and --audience asks each caller for a
token: a signed text that says where its holder may publish and what it may read.

key makes a key: the private half stays with whoever makes tokens, the public half
goes into the key set that the hub reads. mint makes a token with it. A key set may
hold several keys, so a key is replaced without a gap: add the new one, make tokens
with it, take the old one out a day later.

The other commands of freshwire send the token that FRESHWIRE_TOKEN holds, or the
file that --token-file names.`,
		Example: `  freshwire token key --out private.pem --jwks keys.json
  freshwire serve --listen 0.0.0.0:8420 --jwks keys.json --issuer https://example.org --audience https://hub.example.org
  freshwire token mint --key private.pem --issuer https://example.org --audience https://hub.example.org \
    --subject enwiki --publish https://en.example.org --subscribe '*' > enwiki.token
  freshwire tail --token-file enwiki.token`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.tokenKey(), c.tokenMint(), c.tokenInspect(), c.tokenVerify())
	return cmd
}

func (c *cli) tokenKey() *cobra.Command {
	var alg, out, jwks string
	cmd := &cobra.Command{
		Use:   "key",
		Short: "make a key and add its public half to a key set",
		Long: `Makes a key and writes its private half to a new file that its owner alone can read
(PKCS #8 in PEM, as openssl writes it). Its public half is added to the key set, whose
other keys stay. A hub that reads the key set as a file knows the key within a second.`,
		Example: "  freshwire token key --out private.pem --jwks keys.json",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			key, err := auth.GenerateKey(alg)
			if err != nil {
				return usageError{fmt.Errorf("--alg: %w", err)}
			}
			old, err := os.ReadFile(jwks)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			set, err := key.AddTo(old)
			if err != nil {
				return fmt.Errorf("%s: %w", jwks, err)
			}
			private, err := key.MarshalPEM()
			if err != nil {
				return err
			}
			if err := writeNew(out, private); err != nil {
				return err
			}
			if err := replaceFile(jwks, set, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "key %s\nprivate half in %s, public half in %s\n", key.ID(), out, jwks)
			return nil
		},
	}
	cmd.Flags().StringVar(&alg, "alg", auth.EdDSA, "algorithm: "+auth.EdDSA+" or "+auth.ES256)
	cmd.Flags().StringVar(&out, "out", "private.pem", "new file for the private half")
	cmd.Flags().StringVar(&jwks, "jwks", "keys.json", "key set to add the public half to; made if it is not there")
	return cmd
}

// writeNew writes a file that its owner alone can read, and none over another.
func writeNew(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func (c *cli) tokenMint() *cobra.Command {
	var key string
	g := auth.Grant{}
	cmd := &cobra.Command{
		Use:   "mint",
		Short: "make a token and print it",
		Long: `Makes a token that is good from now on and prints it. What it does not say is not
allowed: --publish and --subscribe take URI prefixes, matched by scheme, host and
whole path segments; '*' covers everything. --admin allows everything.`,
		Example: "  freshwire token mint --key private.pem --issuer https://example.org --audience https://hub.example.org \\\n" +
			"    --subject enwiki --publish https://en.example.org --ttl 12h",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			b, err := os.ReadFile(key)
			if err != nil {
				return err
			}
			private, err := auth.ParsePEM(b)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			token, err := private.Mint(g, time.Now())
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintln(c.stdout, token)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "private.pem", "file with the private key")
	f.StringVar(&g.Issuer, "issuer", "", "who makes it; what the hub's --issuer says")
	f.StringVar(&g.Audience, "audience", "", "the hub it is for; what the hub's --audience says")
	f.StringVar(&g.Subject, "subject", "", "who is to hold it: the publisher whose updates and quotas these are")
	f.StringArrayVar((*[]string)(&g.Publish), "publish", nil, "URI prefix under which it may publish; repeatable")
	f.StringArrayVar((*[]string)(&g.Subscribe), "subscribe", nil, "URI prefix of which it may read; repeatable")
	f.StringVar(&g.Peer, "peer", "", "URL of the hub that it speaks for")
	f.BoolVar(&g.Admin, "admin", false, "allow everything")
	f.DurationVar(&g.TTL, "ttl", time.Hour, fmt.Sprintf("how long it is good, at most %s", auth.MaxLifetime))
	f.StringArrayVar(&g.Schemes, "scheme", nil, "URI scheme beside http, https, ticker and urn in prefixes; repeatable")
	return cmd
}

// readToken reads a token from a file, - or nothing meaning standard input. On a
// command line it could be seen by every user of the machine.
func readToken(stdin io.Reader, list []string) (string, error) {
	if len(list) > 0 && list[0] != "-" {
		b, err := os.ReadFile(list[0])
		return strings.TrimSpace(string(b)), err
	}
	b, err := io.ReadAll(io.LimitReader(stdin, 2*auth.MaxToken))
	return strings.TrimSpace(string(b)), err
}

func (c *cli) tokenInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "show what a token says, without believing it",
		Long: `Shows the header and the claims of a token, read from a file or from standard input.
Nothing is checked but that it is one; verify checks it.`,
		Example: "  freshwire token inspect enwiki.token",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			token, err := readToken(cmd.InOrStdin(), list)
			if err != nil {
				return err
			}
			header, claims, err := auth.Inspect(token)
			if err != nil {
				return err
			}
			for _, part := range []json.RawMessage{header, claims} {
				var b bytes.Buffer
				if err := json.Indent(&b, part, "", "  "); err != nil {
					return err
				}
				fmt.Fprintln(c.stdout, b.String())
			}
			return nil
		},
	}
}

// grantShape is what a good token allows, as it is shown.
type grantShape struct {
	Subject   string    `json:"subject"`
	Admin     bool      `json:"admin"`
	Peer      string    `json:"peer,omitempty"`
	Publish   []string  `json:"publish,omitempty"`
	Subscribe []string  `json:"subscribe,omitempty"`
	Expires   time.Time `json:"expires"`
}

func (c *cli) tokenVerify() *cobra.Command {
	var jwks, issuer, audience string
	var schemes []string
	cmd := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "check a token as a hub would, and show what it allows",
		Long: `Checks a token, read from a file or from standard input, as a hub with these settings
would, and shows what it allows and until when. A token that is not good is exit
code 1, with the reason.`,
		Example: "  freshwire token verify --jwks keys.json --issuer https://example.org --audience https://hub.example.org enwiki.token",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if issuer == "" || audience == "" {
				return usagef("name the hub's --issuer and --audience")
			}
			token, err := readToken(cmd.InOrStdin(), list)
			if err != nil {
				return err
			}
			rights, err := verifyToken(cmd.Context(), token, jwks, issuer, audience, schemes)
			if err != nil {
				return err
			}
			shape := grantShape{rights.Subject, rights.Admin, rights.Peer, rights.Publish, rights.Subscribe, rights.Expires.UTC()}
			return c.one(shape, func(w io.Writer) {
				field(w, "subject", shape.Subject)
				field(w, "admin", shape.Admin)
				field(w, "peer", dash(shape.Peer))
				field(w, "publish", dash(strings.Join(shape.Publish, " ")))
				field(w, "subscribe", dash(strings.Join(shape.Subscribe, " ")))
				field(w, "expires", stamp(shape.Expires))
			})
		},
	}
	cmd.Flags().StringVar(&jwks, "jwks", "keys.json", "file with the key set")
	cmd.Flags().StringVar(&issuer, "issuer", "", "what iss has to say")
	cmd.Flags().StringVar(&audience, "audience", "", "what aud has to name")
	cmd.Flags().StringArrayVar(&schemes, "scheme", nil, "URI scheme beside http, https, ticker and urn in prefixes; repeatable")
	return c.chooseOutput(cmd)
}

func verifyToken(ctx context.Context, token, jwks, issuer, audience string, schemes []string) (auth.Rights, error) {
	keys, err := auth.OpenKeys(ctx, jwks, auth.KeysOptions{})
	if err != nil {
		return auth.Rights{}, err
	}
	return auth.NewVerifier(auth.Options{Keys: keys, Issuer: issuer, Audience: audience, Schemes: schemes}).Verify(ctx, token)
}
