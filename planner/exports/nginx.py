"""nginx before engines: it keeps the plan's shares, to a part in ten thousand."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from planner.exports.text import comments
from planner.launchers.front import Behind, Front, NodeStart

CONFIG = "nginx.conf"
_MOST = 10_000


def whole_weights(weights: Sequence[float], most: int = _MOST) -> list[int]:
    """Shares as whole numbers that sum to ``most`` at most, small where small ones do: 0.5, 0.5 is 1, 1. A share that
    is not 0 stays one."""
    total = sum(weights)
    fractions = [Fraction(weight / total).limit_denominator(1000) if total else Fraction(0) for weight in weights]
    scale = 1
    for fraction in fractions:
        scale = scale * fraction.denominator // _gcd(scale, fraction.denominator)
    if sum(fractions) == 1 and scale <= most:
        return [int(fraction * scale) for fraction in fractions]
    return [max(round(weight / total * most), 1) if weight > 0 else 0 for weight in weights]


def _gcd(one: int, other: int) -> int:
    while other:
        one, other = other, one % other
    return one


def upstream(name: str, engines: Sequence[Behind]) -> str:
    """An upstream of nginx with the engines' shares; one without a share is kept, and is down."""
    weights = whole_weights([engine.weight for engine in engines])
    lines = [
        f"        server {engine.host} {f'weight={weight}' if weight else 'down'};"
        for engine, weight in zip(engines, weights, strict=True)
    ]
    return "\n".join([f"    upstream {name} {{", *lines, "    }"])


def nginx_config(upstreams: Sequence[tuple[str, int, Sequence[Behind]]], told: Sequence[str] = ()) -> str:
    """A whole configuration that runs as any user: (name, port, engines) of each server."""
    blocks = []
    for name, port, engines in upstreams:
        blocks.append(upstream(name, engines))
        blocks.append(
            f"    server {{\n        listen {port};\n        location / {{\n            proxy_pass http://{name};\n"
            '            proxy_http_version 1.1;\n            proxy_set_header Connection "";\n'
            "            proxy_buffering off;\n            proxy_read_timeout 3600s;\n"
            "            proxy_request_buffering off;\n            client_max_body_size 0;\n        }\n    }"
        )
    temporary = "\n".join(
        f"    {each}_temp_path nginx-{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        comments(told)
        + "worker_processes 1;\npid nginx.pid;\nerror_log stderr;\nevents {\n    worker_connections 4096;\n}\n"
        + f"http {{\n    access_log off;\n{temporary}\n"
        + "\n".join(blocks)
        + "\n}\n"
    )


def nginx_front(engines: Sequence[Behind], port: int, files: str) -> Front:
    """nginx on ``port`` before engines that serve whole requests."""
    text = nginx_config([("engines", port, engines)])
    command = ("nginx", "-p", files or ".", "-c", f"{files}{CONFIG}", "-g", "daemon off;")
    return Front("nginx", NodeStart(command, files={CONFIG: text}), weighted=True, image_key="front_image")
