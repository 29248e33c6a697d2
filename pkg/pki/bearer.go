package pki

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// A bearer token is a JWT (RFC 7519) that the holder of a certificate signs, for clients that can't show that certificate in a
// handshake. Its header carries the certificate and what is between it and the CA (x5c, RFC 7515 section 4.1.6), its claims the cluster
// (aud), when it was made (iat) and when it ends (exp). It grants what the certificate grants, and only while that would be accepted.
const (
	MaxBearer      = 24 * time.Hour // longest time from iat to exp
	bearerLeeway   = 30 * time.Second
	maxBearerBytes = 16 << 10
	maxBearerCerts = 4
)

// NewBearer signs a bearer token with the Source's key, for 1 s to MaxBearer, and says when it ends: with the certificate at the latest.
func (s *Source) NewBearer(valid time.Duration) (token string, ends time.Time, err error) {
	if valid < time.Second || valid > MaxBearer {
		return "", ends, themis.Errorf(themis.InvalidArgument, "bearer token for %s: want 1s to %s", valid, MaxBearer)
	}
	st := s.current()
	own, now := st.trust.own, s.now().Truncate(time.Second)
	ends = now.Add(valid)
	if own.NotAfter.Before(ends) {
		ends = own.NotAfter
	}
	var method jwt.SigningMethod = jwt.SigningMethodES256
	if _, isRSA := st.holder.key.(*rsa.PrivateKey); isRSA {
		method = jwt.SigningMethodPS256
	}
	t := jwt.NewWithClaims(method, jwt.RegisteredClaims{
		Subject: own.Name(), Audience: jwt.ClaimStrings{own.Cluster}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(ends),
	})
	var chain []string
	for _, der := range st.holder.client.Certificate {
		chain = append(chain, base64.StdEncoding.EncodeToString(der))
	}
	t.Header["x5c"] = chain
	token, err = t.SignedString(st.holder.key)
	return token, ends.UTC(), err
}

// CheckBearer verifies a bearer token, and the certificate in it as if it had been shown in a handshake, and returns what that certificate says of
// its holder. A refusal is UNAUTHENTICATED, is reported to OnRefuse, and never repeats the token.
func (s *Source) CheckBearer(token string) (Info, error) {
	info, refusal := s.verifyBearer(token)
	return info, s.report(refusal, ServerSide)
}

const bearerFix = "make another one: themis-cli pki token"

func (s *Source) verifyBearer(token string) (info Info, refusal *Refusal) {
	trust := s.current().trust
	if len(token) > maxBearerBytes {
		return info, refuse(BadToken, nil, bearerFix, "bearer token: %d bytes, at most %d", len(token), maxBearerBytes)
	}
	var leaf *x509.Certificate
	key := func(t *jwt.Token) (any, error) {
		certs, err := chainIn(t.Header["x5c"])
		if err != nil {
			return nil, err
		}
		if info, refusal = trust.verify(certs, x509.ExtKeyUsageClientAuth, s.now()); refusal != nil {
			return nil, refusal
		}
		leaf = certs[0]
		return leaf.PublicKey, checkKey(leaf.PublicKey)
	}
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(token, &claims, key, jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg(), jwt.SigningMethodPS256.Alg()}), jwt.WithAudience(trust.own.Cluster),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(bearerLeeway), jwt.WithTimeFunc(s.now), jwt.WithStrictDecoding())
	switch {
	case refusal != nil:
		return Info{}, refusal
	case errors.Is(err, jwt.ErrTokenSignatureInvalid) && leaf != nil && guard.On(guard.BearerSigned):
		return Info{}, refuse(BadToken, leaf, bearerFix, "is in a bearer token that its key has not signed")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid) && leaf != nil:
		return info, nil
	case errors.Is(err, jwt.ErrTokenExpired):
		return Info{}, refuse(BadToken, leaf, bearerFix, "is in a bearer token that ended %s", stampTime(claims.ExpiresAt.Time))
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued), errors.Is(err, jwt.ErrTokenNotValidYet):
		return Info{}, refuse(BadToken, leaf, "compare the clocks of both machines", "is in a bearer token that is not valid yet")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return Info{}, refuse(BadToken, leaf, bearerFix, "is in a bearer token for %.200q, this is cluster %s", claims.Audience, trust.own.Cluster)
	case err != nil:
		return Info{}, refuse(BadToken, nil, bearerFix, "bearer token: %.200s", err.Error())
	case claims.IssuedAt == nil || claims.ExpiresAt.Sub(claims.IssuedAt.Time) > MaxBearer:
		return Info{}, refuse(BadToken, leaf, bearerFix, "is in a bearer token that does not say when it was made, or is good for more than %s", MaxBearer)
	}
	return info, nil
}

// chainIn reads the certificates of a token's header, the holder's first.
func chainIn(header any) ([]*x509.Certificate, error) {
	list, _ := header.([]any)
	if len(list) == 0 || len(list) > maxBearerCerts {
		return nil, themis.Errorf(themis.Unauthenticated, "x5c: %d certificates, want 1 to %d", len(list), maxBearerCerts)
	}
	var out []*x509.Certificate
	for _, x := range list {
		text, _ := x.(string)
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, themis.Errorf(themis.Unauthenticated, "x5c: not base64")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, themis.Errorf(themis.Unauthenticated, "x5c: no certificate")
		}
		out = append(out, cert)
	}
	return out, nil
}
