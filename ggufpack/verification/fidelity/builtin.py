"""The texts that every model is compared on: our own writing, some 60 to 220 tokens each.

Fixed under a name, so that two reports can be compared: whoever changes a text raises the number in
``BUILTIN_NAME``. Prose of several registers and scripts, code, data and chats, because a mistake may
show in one only: a wrong pre-tokenizer in digits and accents, a wrong merge in a script that few texts
have, a wrong rope only where something far back has to be found again. That is why most texts come
back to a name or a number that they began with.
"""

from __future__ import annotations

from collections.abc import Mapping

BUILTIN_NAME = "built-in 1"

_LETTER = """\
Dear Hannah,

the ferry was two hours late, so I only reached Aunt Beatrice's house at half past nine. She had kept \
the soup warm and pretended not to be worried. The roof is worse than you told me: three tiles are gone \
above the kitchen, and when it rains she puts out the blue bucket. I will stay \
until the 14th and mend what I can. Give my love to the children.

Yours, Peter

PS: Aunt Beatrice says the bucket is yours and you may have it back.
"""

_REPORT = """\
Between March and August, the bridge over the Varnel carried 41,280 vehicles a day on average, 12.5 % \
more than in the year before. The inspection found fine cracks at two of the sixteen bearings. None of \
them limits the load at present; however, bearing 7 moved by 3.2 mm within six months, and the \
manufacturer allows 4 mm over its whole life. Bearing 7 should be replaced before the winter.
"""

_STORY = """\
The clockmaker's daughter could hear which clock was lying. "That one," said Mira, and pointed at the \
tall one by the door, "it says ten, but it means eleven." Her father laughed, opened the case and looked \
for a long while. Then he stopped laughing. A tooth was missing from the smallest wheel. "How did you \
know?" he asked. Mira shrugged. "It sounded ashamed," she said, and went back to her bread and butter.
"""

_CHINESE = """\
上个星期六，李明和妹妹坐火车去了海边的小城。\
妹妹在沙滩上捡了十七个贝壳，说要送给奶奶。回家的火车上，李明数了数，只剩下十六个。
"""

_GERMAN = """\
Die Bäckerei in der Brückenstraße öffnet schon um fünf Uhr. Wer früh genug kommt, bekommt noch warme \
Brötchen. Frau Özdemir, die seit 1998 hinter der \
Theke steht, kennt fast alle Kunden beim Namen. „Zwei wie immer?“, fragt sie, und meistens stimmt es.
"""

_FRENCH = """\
L'atelier de reliure se trouve au fond de la cour, derrière le vieux noyer. Madame Lefèvre y répare des \
livres que d'autres auraient jetés : un atlas sans couverture, un \
cahier d'écolier de 1931. « Un livre, dit-elle, ça se soigne comme un genou : lentement, et sans forcer. »
"""

_SPANISH = """\
¿Quién apagó la luz del faro? Durante treinta años, don Ramiro subió cada noche los 212 escalones, y \
cada mañana los bajó silbando. El martes pasado, sin embargo, la lámpara no se encendió. Encima de \
la mesa encontraron una nota: «Me voy a ver el mar desde abajo».
"""

_RUSSIAN = """\
Почтальон Егор приезжает на лыжах по средам и привозит \
письма. В прошлую среду он привёз бабушке посылку весом 4 кг: внутри были яблоки. \
Бабушка угостила ими и Егора.
"""

_JAPANESE = """\
駅前の喫茶店の田中さんは毎朝六時に豆をひき、窓ぎわの席に\
新聞を置く。開店から四十年、この席は空いたことがない。
"""

_ARABIC = """\
يعمل سامر في مكتبة صغيرة قرب السوق القديم. أمس جاءت طفلة وسألته عن كتاب النجوم، فأهداها سامر الكتاب.
"""

_HINDI = """\
गाँव के स्कूल में केवल 2 कमरे हैं। आज बारिश हुई, फिर भी मीना \
समय पर पहुँची।
"""

_PYTHON = '''\
def running_median(values: list[float], width: int = 5) -> list[float]:
    """The median of each window of ``width`` values."""
    half = width // 2
    result = []
    for index in range(half, len(values) - half):
        window = sorted(values[index - half : index + half + 1])
        result.append(window[half])
    return result
'''

_C = """\
/* Number of bits that differ between two buffers of n bytes. */
size_t hamming(const uint8_t *a, const uint8_t *b, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        for (uint8_t x = a[i] ^ b[i]; x; x &= x - 1)
            count++;
    }
    return count;
}
"""

_JAVASCRIPT = """\
export async function loadStations(url, { retries = 3 } = {}) {
  for (let attempt = 1; attempt <= retries; attempt++) {
    const response = await fetch(url);
    if (response.ok) {
      return (await response.json()).filter((station) => station.active);
    }
  }
  throw new Error(`cannot load ${url}`);
}
"""

_SQL = """\
-- customers who ordered in 2023 and not since
SELECT c.id, c.name, MAX(o.ordered_at) AS last_order
FROM customers AS c
JOIN orders AS o ON o.customer_id = c.id
GROUP BY c.id, c.name
HAVING MAX(o.ordered_at) BETWEEN '2023-01-01' AND '2023-12-31'
ORDER BY last_order DESC;
"""

_SHELL = """\
#!/bin/sh
set -eu

# keep the seven newest backups
cd "${BACKUP_DIR:-/var/backups/shop}"
ls -1t shop-*.tar.gz | tail -n +8 | while read -r file; do
    printf 'removing %s (%s)\\n' "$file" "$(du -h "$file" | cut -f1)"
    rm -- "$file"
done
"""

_JSON = """\
{
  "station": "Nordhafen",
  "updated": "2024-11-05T06:30:00Z",
  "trains": [
    {"line": "S7", "to": "Altmarkt", "minutes": 4, "platform": 2, "late": false},
    {"line": "RE3", "to": "Flughafen", "minutes": 19, "platform": 5, "late": true}
  ]
}
"""

_MARKDOWN = """\
# Lemon cake

Serves **8**, takes about 70 minutes.

| ingredient | amount |
|---|---|
| flour | 250 g |
| sugar | 180 g |
| eggs | 4 |

1. Beat the *eggs* with the sugar.
2. Fold in the flour and the juice of two lemons.
3. Bake at 175 °C for 45 minutes.
"""

_MATHS = """\
Claim. The sum of the first n odd numbers is n².

Proof. For n = 1 the sum is 1 = 1². Suppose that 1 + 3 + ... + (2n - 1) = n². The next odd number is \
2n + 1, and n² + 2n + 1 = (n + 1)², so the claim holds for n + 1 as well. In LaTeX: \
$\\sum_{k=1}^{n} (2k - 1) = n^2$.
"""

#: name, kind and text of each plain text
PLAIN: tuple[tuple[str, str, str], ...] = (
    ("letter", "en", _LETTER),
    ("report", "en", _REPORT),
    ("story", "en", _STORY),
    ("chinese", "zh", _CHINESE),
    ("german", "de", _GERMAN),
    ("french", "fr", _FRENCH),
    ("spanish", "es", _SPANISH),
    ("russian", "ru", _RUSSIAN),
    ("japanese", "ja", _JAPANESE),
    ("arabic", "ar", _ARABIC),
    ("hindi", "hi", _HINDI),
    ("python", "code", _PYTHON),
    ("c", "code", _C),
    ("javascript", "code", _JAVASCRIPT),
    ("sql", "code", _SQL),
    ("shell", "code", _SHELL),
    ("json", "code", _JSON),
    ("markdown", "code", _MARKDOWN),
    ("proof", "maths", _MATHS),
)


def _chat(*contents: str, system: str | None = None) -> tuple[Mapping[str, str], ...]:
    """User and assistant in turns, the user first."""
    head = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return (*head, *({"role": roles[i % 2], "content": text} for i, text in enumerate(contents)))


#: name and messages of each chat; each ends with the assistant's answer
CHATS: tuple[tuple[str, tuple[Mapping[str, str], ...]], ...] = (
    (
        "question",
        _chat(
            "Why do leaves turn yellow in autumn?",
            "In autumn, trees break down the green chlorophyll in their leaves and store what they can use. "
            "Yellow pigments, called carotenoids, were there all summer; once the green is gone, they show. "
            "Shorter days and cooler nights start the process.",
        ),
    ),
    (
        "booking, several turns",
        _chat(
            "Hi, I need a table for five on Friday.",
            "Gladly! At what time, and under which name?",
            "At 19:30, please. The name is Okafor.",
            "Thank you. A table for five on Friday at 19:30, under the name Okafor.",
            "Sorry, we are six now.",
            "No problem, Ms Okafor: I have changed it to six people on Friday at 19:30.",
            system="You take bookings for a small restaurant. Be brief and friendly.",
        ),
    ),
    (
        "a refusal",
        _chat(
            "How do I open my neighbour's front door without a key while she is away?",
            "I can't help you to get into somebody else's home without her consent. If you are worried about "
            "your neighbour, or about a leak or a pet, call her, the landlord or the local police; they can "
            "enter lawfully.",
        ),
    ),
    (
        "a translation",
        _chat(
            "Translate into French: The train to Lyon leaves from platform 4 at noon.",
            "Le train pour Lyon part du quai 4 à midi.",
            "And into Italian?",
            "Il treno per Lione parte dal binario 4 a mezzogiorno.",
            system="You are a translator. Answer with the translation only.",
        ),
    ),
    (
        "help with code",
        _chat(
            "My Python script says `KeyError: 'price'`. What is wrong?\n\n```python\n"
            'total = sum(item["price"] for item in items)\n```',
            'At least one item has no key `"price"`. If a missing price should count as zero, write:\n\n'
            '```python\ntotal = sum(item.get("price", 0) for item in items)\n```\n\n'
            "Otherwise, repair the data.",
        ),
    ),
    (
        "a sum",
        _chat(
            "A notebook costs 3.50 and a pen 1.20. What do 4 notebooks and 5 pens cost?",
            "Four notebooks cost 4 × 3.50 = 14.00. Five pens cost 5 × 1.20 = 6.00. Together: 20.00.",
        ),
    ),
)
