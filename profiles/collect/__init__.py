"""The harness: measures the machine it runs on. The only place that imports torch (extra ``collect``), and only when
something is measured; everything here needs Python and torch alone, so that it runs on machines where nothing can be
installed."""
