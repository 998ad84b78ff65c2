package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// A Kind says what a call came to grief over. There are few, so that they can be
// labels of a metric.
type Kind string

const (
	Refused   Kind = "refused"   // the rules forbid it: nothing was sent
	NoName    Kind = "name"      // the host's name has no address, or no server tells
	NoConnect Kind = "connect"   // no address took the connection
	BadTLS    Kind = "tls"       // no TLS, or a certificate that is not valid
	TimedOut  Kind = "timeout"   // one of the time limits
	Cancelled Kind = "cancelled" // whoever called gave it up
	BadAnswer Kind = "answer"    // it is too long, is no HTTP or broke off
)

// Error is a call that failed. Its text names neither the URL nor its host, for
// they may be secrets, and repeats nothing of an answer; what it wraps may do so
// and is there for errors.Is alone.
type Error struct {
	Purpose string // of the policy
	Kind    Kind
	Reason  string
	cause   error
}

func (e *Error) Error() string {
	if e.Kind == Refused {
		return e.Purpose + " refused: " + e.Reason
	}
	return e.Purpose + " failed: " + e.Reason
}

// Unwrap returns the cause, of a refusal that of [Policy].Admit or nil. Its text may
// name the URL.
func (e *Error) Unwrap() error { return e.cause }

func refuse(purpose, reason string) *Error {
	return &Error{Purpose: purpose, Kind: Refused, Reason: reason}
}

// failure is the one place that tells what an error of net/http is about.
func failure(purpose string, err error) *Error {
	var (
		own     *Error
		call    *url.Error
		name    *net.DNSError
		op      *net.OpError
		errno   syscall.Errno
		timeout interface{ Timeout() bool }
	)
	if errors.As(err, &own) {
		return own
	}
	if errors.As(err, &call) {
		err = call.Err
	}
	e := &Error{Purpose: purpose, cause: err}
	switch {
	case errors.Is(err, context.Canceled):
		e.Kind, e.Reason = Cancelled, "it was given up"
	case errors.As(err, &name) && !name.IsTimeout:
		e.Kind, e.Reason = NoName, "the name has no address"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		e.Kind, e.Reason = TimedOut, "it took too long"
	case isTLS(err):
		e.Kind, e.Reason = BadTLS, "TLS could not be agreed on, or the certificate is not valid"
	case errors.As(err, &op) && op.Op == "dial":
		e.Kind, e.Reason = NoConnect, "no connection"
		if errors.As(err, &errno) {
			e.Reason += ": " + errno.Error()
		}
	default:
		e.Kind, e.Reason = BadAnswer, "the answer broke off or is not HTTP"
	}
	return e
}

func isTLS(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		host        x509.HostnameError
	)
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &host) ||
		errors.Is(err, http.ErrSchemeMismatch) || strings.Contains(err.Error(), "tls: ")
}
