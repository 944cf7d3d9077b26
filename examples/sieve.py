"""The sieve of Eratosthenes: all prime numbers up to a limit, by crossing out multiples."""


def primes(limit: int) -> list[int]:
    """Cross out the multiples of each number that has not been crossed out itself."""
    candidate = [True] * (limit + 1)
    for number in range(2, int(limit**0.5) + 1):
        if candidate[number]:
            for multiple in range(number * number, limit + 1, number):
                candidate[multiple] = False
    return [number for number in range(2, limit + 1) if candidate[number]]


if __name__ == "__main__":
    print(primes(100))
